"""Pictures of single organs in single cases: what was predicted, what was contoured, on the CT."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from utils.case_masks import CaseFiles, Naming, case_ct, open_structures, read_lps
from utils.evaluation import CasePairs, Settings, aligned_masks
from utils.geometry import Geometry
from utils.mask_grids import Mask, join_masks, resample_mask
from utils.overlay import RGB, render_case, save_png

MARGIN_MM = 30.0
"""Shown around the two masks, so that a person sees where they lie."""
COLOR: RGB = (255, 190, 60)


def draw_worst(
    folder: Path,
    ct_folder: Path,
    pairs: CasePairs,
    places: Iterable[tuple[str, str]],
    settings: Settings,
) -> dict[str, str]:
    """Write <case>_<organ>.png for the given places, prediction solid, reference dashed.

    Args:
        folder: target.
        ct_folder: holds a CT per case, by name.
        pairs: files of both sides by case.
        places: (case id, organ).
        settings: of the evaluation.

    Returns:
        "case, organ" to the reason, for pictures that could not be drawn.
    """
    wanted: dict[str, list[str]] = {}
    for case_id, organ in dict.fromkeys(places):
        wanted.setdefault(case_id, []).append(organ)
    failures = {}
    for case_id, organs in wanted.items():
        try:
            _draw_case(folder, case_ct(ct_folder, case_id), pairs[case_id], organs, settings)
        except (ValueError, OSError) as error:
            failures[f"overlay of {case_id}"] = str(error)
    return failures


def _draw_case(
    folder: Path, ct_path: Path, pair: tuple[CaseFiles, CaseFiles], organs: Sequence[str], settings: Settings
) -> None:
    ct = read_lps(ct_path)
    naming = Naming(settings.preset)
    prediction, reference = (open_structures(files, naming) for files in pair)
    for organ in organs:
        masks = aligned_masks(naming.key(organ), prediction, reference, resample=settings.resample)
        picture = draw_organ(ct.array, ct.geometry, *masks, organ)
        save_png(folder / f"{pair[1].case_id}_{organ.replace(' ', '_')}.png", picture)


def draw_organ(image: np.ndarray, geometry: Geometry, prediction: Mask, reference: Mask, name: str) -> np.ndarray:
    """Draw one organ and its surroundings.

    Args:
        image: (D, H, W), HU.
        geometry: of the image; masks of another grid are carried over, which for a picture is exact enough.
        prediction: drawn solid.
        reference: drawn dashed, on the prediction's grid.
        name: for the legend.

    Returns:
        (h, w, 3) uint8, RGB.

    Raises:
        ValueError: the masks lie outside of the image.
    """
    masks = [
        mask if mask.geometry.matches(geometry) else resample_mask(mask, geometry) for mask in (prediction, reference)
    ]
    filled = [mask for mask in masks if mask.voxels.size]
    if not filled:
        raise ValueError(f"{name}: lies outside of the CT, or is thinner than its voxels; is it the CT of this case?")
    start = np.min([mask.corner_zyx for mask in filled], axis=0)
    joined = join_masks(*masks)
    margin = np.ceil(MARGIN_MM / np.asarray(geometry.spacing_zyx_mm)).astype(int)
    low = np.maximum(start - margin, 0)
    high = np.minimum(start + joined[0].shape + margin, geometry.size_zyx)
    labels = [np.zeros(high - low, dtype=np.uint8) for _ in joined]
    inner = tuple(slice(a, a + n) for a, n in zip(start - low, joined[0].shape, strict=True))
    for label, mask in zip(labels, joined, strict=True):
        label[inner] = mask
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    options = {"spacing_zyx_mm": geometry.spacing_zyx_mm, "colors": [COLOR], "names": [name]}
    return render_case(image[box], labels[0], reference=labels[1] if labels[1].any() else None, **options)
