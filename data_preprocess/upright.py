"""Rotates oblique cases, for example of a tilted gantry, to the patient's axes: training sees what inference sees."""

from dataclasses import replace

from data_preprocess.inference_transform import OBLIQUE_DEG
from data_preprocess.resample import Triple, resample_axis_aligned
from data_preprocess.sources import RawCase
from utils.imaging.masks import resample_mask


def upright(raw: RawCase, network_spacing_zyx_mm: Triple) -> RawCase:
    """Rotate the CT and the masks of a case as `InferenceTransform` rotates a CT; masks without a CT stay as they are.

    Returns:
        The case, with a note; the same one if it is not oblique.
    """
    angle_deg = raw.geometry.obliqueness_deg()
    if raw.volume is None or angle_deg <= OBLIQUE_DEG:
        return raw
    volume = resample_axis_aligned(raw.volume, network_spacing_zyx_mm)
    return replace(
        raw,
        volume=volume,
        masks={name: resample_mask(mask, volume.geometry) for name, mask in raw.masks.items()},
        notes=(*raw.notes, f"rotated by {angle_deg:.1f} degrees to the patient's axes"),
    )
