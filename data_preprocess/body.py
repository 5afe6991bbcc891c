"""The patient's bounding box, from the CT alone: never from labels, so that it exists for an unlabelled CT."""

import numpy as np
from scipy import ndimage

BODY_HU = -300
COARSE_MM = 4.0
OPENING_MM = 12.0
"""Thinner things are cut off: the table's shell, a mask, tubes."""
MARGIN_MM = 10.0

Box = tuple[slice, slice, slice]


def find_body(image: np.ndarray, spacing_zyx_mm: tuple[float, float, float]) -> Box:
    """Bounding box of the largest object denser than air, with a margin.

    Found on a grid of about 4 mm, since a box needs no finer.

    Args:
        image: (D, H, W), HU.
        spacing_zyx_mm: its spacing.

    Returns:
        Three slices into `image`.

    Raises:
        ValueError: nothing in the volume is denser than air.
    """
    stride = [max(1, int(COARSE_MM / spacing)) for spacing in spacing_zyx_mm]
    coarse_mm = np.multiply(stride, spacing_zyx_mm)
    dense = image[:: stride[0], :: stride[1], :: stride[2]] > BODY_HU
    if not dense.any():
        raise ValueError(f"expected a patient, but no voxel is denser than {BODY_HU} HU: is this a CT in HU?")
    body = _largest_component(_open(dense, coarse_mm))
    box = []
    for axis, size in enumerate(image.shape):
        occupied = np.flatnonzero(body.any(axis=tuple(other for other in range(3) if other != axis)))
        margin = int(np.ceil(MARGIN_MM / spacing_zyx_mm[axis]))
        start = occupied[0] * stride[axis] - margin
        stop = (occupied[-1] + 1) * stride[axis] + margin
        box.append(slice(max(0, int(start)), min(size, int(stop))))
    return tuple(box)


def _open(mask: np.ndarray, spacing_mm: np.ndarray) -> np.ndarray:
    """Opening with a ball, by distances; a mask with nothing that thick is returned as it is."""
    radius = OPENING_MM / 2
    padded = np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="constant")
    padded = np.pad(padded, ((1, 1), (0, 0), (0, 0)), mode="edge")  # the neck goes on beyond the last slice
    core = ndimage.distance_transform_edt(padded, spacing_mm) > radius
    if not core.any():
        return mask
    opened = ndimage.distance_transform_edt(~core, spacing_mm) <= radius
    return (opened & padded)[1:-1, 1:-1, 1:-1]


def _largest_component(mask: np.ndarray) -> np.ndarray:
    components, count = ndimage.label(mask)
    if count <= 1:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return components == sizes.argmax()
