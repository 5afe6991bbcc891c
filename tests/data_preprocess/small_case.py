"""A case small enough to be written dozens of times."""

from pathlib import Path

import numpy as np

from data_preprocess.sources.base import RawCase
from utils.imaging.geometry import Geometry
from utils.imaging.masks import crop_mask
from utils.io.volumes import Volume, write_volume

SIZE, SPACING = (16, 28, 34), (3.0, 2.0, 2.5)
GEOMETRY = Geometry(size_zyx=SIZE, spacing_zyx_mm=SPACING, origin_xyz_mm=(-40.0, 12.5, -300.0))
BOXES = {
    "brainstem": ((8, 12), (14, 20), (14, 20)),
    "mandible": ((3, 6), (7, 10), (10, 24)),
    "parotid_left": ((5, 10), (10, 16), (24, 28)),
    "parotid_right": ((5, 10), (10, 16), (6, 10)),
}


def box_of(boxes):
    """Slices of ((start, stop), ...)."""
    return tuple(slice(*axis) for axis in boxes)


def small_case() -> RawCase:
    """A body of 40 HU in air, in which four organs are boxes of 60, 400, 50 and 50 HU."""
    image = np.full(SIZE, -1000, dtype=np.int16)
    image[1:15, 4:24, 4:30] = 40
    masks = {}
    for (name, boxes), hu in zip(BOXES.items(), (60, 400, 50, 50), strict=True):
        mask = np.zeros(SIZE, dtype=bool)
        mask[box_of(boxes)] = True
        image[mask] = hu
        masks[name] = crop_mask(mask, (0, 0, 0), GEOMETRY)
    return RawCase(case_id="good", volume=Volume(array=image, geometry=GEOMETRY), masks=masks, source="drawn by a test")


def write_masks(folder: Path) -> Path:
    """The small case as ct.nrrd and a mask file per organ."""
    raw = small_case()
    write_volume(folder / "ct.nrrd", raw.volume)
    for name, mask in raw.masks.items():
        volume = Volume(array=mask.dense().astype(np.uint8), geometry=raw.geometry)
        write_volume(folder / "segmentations" / f"{name}.nrrd", volume)
    return folder
