"""Review pages of scored cases: prediction and reference on the CT with the scores of every organ, and their list."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.evaluation.evaluate import Evaluation, EvaluationSettings
from utils.evaluation.matching import CasePair, find_cts, missing_ct
from utils.evaluation.metrics import COUNTED, DICE, HD95, SURFACE_DICE, ScoreRow, Status
from utils.evaluation.overlap import volume_ml
from utils.imaging.geometry import Geometry
from utils.imaging.intensity import AIR_HU
from utils.imaging.masks import Mask, empty_mask, resample_mask
from utils.imaging.resampling import Box, extent_on, resample_box
from utils.io.files import remove_file
from utils.io.segmentations import OrganNameResolver, open_structures
from utils.io.volumes import Volume, read_lps
from utils.reporting.organ_report import UNUSUAL_VOLUME
from utils.reporting.review.index import INDEX_NAME, IndexCell, IndexRow, unusual_volumes, write_index
from utils.reporting.review.page import RGB, CaseReview, OrganRow, write_review_page
from utils.reporting.review.rows import by_attention
from utils.reporting.tables import format_number
from utils.runtime.process_pool import run_cases

FOLDER = "review"
COLUMNS = ("lowest Dice", "mean Dice", "largest HD95", "unusual volumes")
MARGIN_MM = 50.0
"""Shown around the contours: in most scans all of head and neck at their height, without the air beside them."""
STATUS_FLAGS = {Status.MISSED: "missed", Status.SPURIOUS: "predicted, but absent"}
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2
"""Steps of this size around the circle of hues keep away from all earlier ones."""
OBLIQUE_DEG = 1.0
"""Smaller angles are not worth a note."""


class _Masks(NamedTuple):
    """Both masks of an organ on one grid; one may be empty."""

    prediction: Mask
    reference: Mask


class _Item(NamedTuple):
    """What the page of a case is made from."""

    pair: CasePair
    ct: Path
    rows: Sequence[ScoreRow]
    flags: Sequence[str]


def write_reviews(
    folder: Path,
    ct_folder: Path,
    pairs: Mapping[str, CasePair],
    evaluation: Evaluation,
    low_cases: Sequence[tuple[str, float]],
    settings: EvaluationSettings,
    num_workers: int,
) -> dict[str, CaseFailure]:
    """Write <case>.html for every scored case on the CT that `find_cts` finds, and index.html with all cases.

    Args:
        folder: of the pages.
        ct_folder: of the CTs.
        pairs: of `match_cases`.
        evaluation: of these pairs.
        low_cases: of `find_low_cases`.
        settings: of the evaluation.
        num_workers: processes.

    Returns:
        The cases without a page, by case id.
    """
    rows: dict[str, list[ScoreRow]] = {}
    for row in evaluation.rows:
        rows.setdefault(row.case_id, []).append(row)
    low = dict(low_cases)
    flags = {case_id: _case_flags(own, low.get(case_id)) for case_id, own in rows.items()}
    cts = find_cts(ct_folder, pairs)
    missing = {case_id: CaseFailure(missing_ct(ct_folder, case_id)) for case_id in rows if case_id not in cts}
    items = {name: _Item(pairs[name], cts[name], rows[name], flags[name]) for name in rows if name in cts}
    for case_id in rows:
        remove_file(folder / f"{case_id}.html")
    outcome = run_cases(partial(_write_case, folder=folder, settings=settings), items, num_workers, "pages")
    without_page = missing | outcome.failures
    listed = [
        IndexRow(
            case_id=case_id,
            page=None if case_id in without_page else f"{case_id}.html",
            flags=[*flags[case_id], *(["no page: see the log"] if case_id in without_page else [])],
            cells=_index_cells(own),
        )
        for case_id, own in rows.items()
    ]
    blank = [IndexCell("")] * len(COLUMNS)
    listed += [IndexRow(case_id=case_id, page=None, flags=["failed"], cells=blank) for case_id in evaluation.failures]
    write_index(folder / INDEX_NAME, "Evaluated cases", COLUMNS, listed)
    return without_page


def review_case(pair: CasePair, ct: Volume, rows: Sequence[ScoreRow], settings: EvaluationSettings) -> CaseReview:
    """Collect what the page of a case shows: the CT around the contours, on their grid, and a row per organ.

    Args:
        pair: of the case.
        ct: with its axes in LPS order; it is resampled if it lies on another grid.
        rows: scores of the case.
        settings: of the evaluation.

    Raises:
        UserError: no organ has a voxel, or all contours lie outside the CT.
    """
    masks = _read_masks(pair, rows, settings)
    boxes = [mask.box for both in masks.values() for mask in both if mask.voxels.size]
    if not boxes:
        raise UserError("no organ has a voxel on either side, so that there is nothing to look at")
    geometry = next(iter(masks.values())).reference.geometry
    contoured = tuple(slice(min(a.start for a in axes), max(a.stop for a in axes)) for axes in zip(*boxes, strict=True))
    notes = [*_ct_notes(ct, geometry, contoured), *ct.notes]
    margins = [math.ceil(MARGIN_MM / spacing) for spacing in geometry.spacing_zyx_mm]
    ends = zip(contoured, margins, geometry.size_zyx, strict=True)
    box = tuple(slice(max(0, axis.start - margin), min(size, axis.stop + margin)) for axis, margin, size in ends)
    labels = {name: label for label, name in enumerate(masks, 1)}
    organs = [
        _organ_row(row, labels[row.organ], masks[row.organ], settings.preset) for row in rows if row.organ in masks
    ]
    return CaseReview(
        case_id=None,
        image_hu=resample_box(ct.array, ct.geometry, geometry, box, AIR_HU),
        spacing_zyx_mm=geometry.spacing_zyx_mm,
        prediction=_label_map({labels[name]: both.prediction for name, both in masks.items()}, geometry, box),
        reference=_label_map({labels[name]: both.reference for name, both in masks.items()}, geometry, box),
        organs=by_attention(organs, DICE.heading),
        notes=notes,
    )


def _write_case(item: _Item, folder: Path, settings: EvaluationSettings) -> None:
    review = review_case(item.pair, read_lps(item.ct), item.rows, settings)
    write_review_page(folder / f"{item.pair.reference.case_id}.html", replace(review, flags=item.flags))


def _read_masks(pair: CasePair, rows: Sequence[ScoreRow], settings: EvaluationSettings) -> dict[str, _Masks]:
    """Both masks of every scored or predicted organ that has a voxel, on the reference's grid, in the order of rows."""
    resolver = OrganNameResolver(settings.preset)
    prediction, reference = (open_structures(files, resolver) for files in pair)
    first = reference if reference.names else prediction
    geometry = first.load(next(iter(first.names))).geometry
    masks = {}
    for row in rows:
        key = resolver.key(row.organ)
        sides = [side.load(key) if key in side.names else empty_mask(geometry) for side in (prediction, reference)]
        if any(mask.voxels.size for mask in sides):
            masks[row.organ] = _Masks(*(resample_mask(mask, geometry) for mask in sides))
    return masks


def _ct_notes(ct: Volume, geometry: Geometry, contoured: Box) -> list[str]:
    """How the CT fits the grid of the contours.

    Raises:
        UserError: all contours lie outside the CT.
    """
    notes = []
    if (angle := geometry.obliqueness_deg()) > OBLIQUE_DEG:
        notes.append(
            f"the axes of the scan are oblique by up to {angle:.0f} degrees; letters name the closest direction"
        )
    if ct.geometry.matches(geometry):
        return notes
    low, high = extent_on(ct.geometry, geometry, contoured)
    if np.any(high < 0) or np.any(low > np.subtract(ct.geometry.size_zyx, 1)):
        raise UserError(
            f"the contours lie outside the CT: CT {ct.geometry}; contours {geometry}; check that it is the CT of this "
            "case"
        )
    notes.append(f"the CT was resampled to the grid of the contours: CT {ct.geometry}; contours {geometry}")
    if np.any(low < -0.5) or np.any(high > np.subtract(ct.geometry.size_zyx, 0.5)):
        notes.append("the CT does not cover all contours; beyond it the page shows air")
    return notes


def _label_map(masks: Mapping[int, Mask], geometry: Geometry, box: Box) -> np.ndarray:
    """The masks as one map of labels, uint8, cropped; where they overlap, the smaller one is seen."""
    whole = np.zeros(geometry.size_zyx, dtype=np.uint8)
    for label, mask in sorted(masks.items(), key=lambda item: -np.count_nonzero(item[1].voxels)):
        whole[mask.box][mask.voxels] = label
    return whole[box]


def _organ_row(row: ScoreRow, label: int, masks: _Masks, preset: Preset | None) -> OrganRow:
    volumes_ml = [volume_ml(mask.voxels, mask.geometry.spacing_zyx_mm) for mask in masks]
    flags = [STATUS_FLAGS[row.status]] if row.status in STATUS_FLAGS else []
    if unusual_volumes({row.organ: volumes_ml[0]}).order:
        flags.append(UNUSUAL_VOLUME)
    scores = row.scores if row.status in COUNTED else None
    values = {metric.heading: getattr(scores, metric.key) if scores else None for metric in (DICE, HD95, SURFACE_DICE)}
    values |= {"ml": volumes_ml[0], "ref. ml": volumes_ml[1] if masks.reference.voxels.size else None}
    return OrganRow(
        name=row.organ,
        color=_color(row.organ, label, preset),
        label=label,
        values=values,
        flags=flags,
        is_compared=scores is not None,
    )


def _color(organ: str, label: int, preset: Preset | None) -> RGB:
    """The preset's color, or one that differs from those of the labels before it."""
    index = preset.find_organ(organ) if preset else None
    if index is not None:
        return preset.organs[index].color
    return tuple(round(255 * channel) for channel in colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, 0.75, 1.0))


def _case_flags(rows: Sequence[ScoreRow], below_median: float | None) -> list[str]:
    """Why someone should look at a case."""
    flags = []
    for status, text in STATUS_FLAGS.items():
        if organs := [row.organ for row in rows if row.status is status]:
            flags.append(f"{text}: {', '.join(organs)}")
    if below_median is not None:
        flags.append(f"its organs are {-below_median:.3f} below their median Dice")
    return flags


def _index_cells(rows: Sequence[ScoreRow]) -> list[IndexCell]:
    counted = {row.organ: row.scores for row in rows if row.status in COUNTED}
    volumes = unusual_volumes({organ: scores.volume_prediction_ml for organ, scores in counted.items()})
    if not counted:
        return [*[IndexCell("")] * 3, volumes]
    low = min(counted, key=lambda organ: counted[organ].dice)
    far = max(counted, key=lambda organ: counted[organ].hd95_mm)
    mean = float(np.mean([scores.dice for scores in counted.values()]))
    largest = counted[far].hd95_mm
    return [
        IndexCell(f"{counted[low].dice:.3f} {low}", counted[low].dice),
        IndexCell(f"{mean:.3f}", mean),
        IndexCell(f"{format_number(largest, 1)} mm {far}", largest),
        volumes,
    ]
