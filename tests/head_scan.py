"""A small synthetic CT of a head with skull, a neck with vertebrae, and shoulders, whose voxels all differ."""

import numpy as np

SPACING = (3.0, 2.0, 2.0)
SIZE = (86, 116, 126)
CENTER_MM = (0.0, 112.0, 121.3)
"""Of the head in plane; coordinates are voxel index * spacing."""
HEAD_MM, HEAD_RADII_MM = (163.0, 111.0, 121.3), (80.0, 90.0, 72.0)
NECK_RADIUS_MM = 52.0


def head_scan(size=SIZE, spacing=SPACING):
    """int16 HU (D, H, W). The head's top is at z = 243 mm; the shoulders leave the scan below."""
    z, y, x = np.meshgrid(*(np.arange(n) * s for n, s in zip(size, spacing, strict=True)), indexing="ij", sparse=True)
    head = sum(((p - c) / r) ** 2 for p, c, r in zip((z, y, x), HEAD_MM, HEAD_RADII_MM, strict=True))
    from_middle = np.hypot(y - CENTER_MM[1], x - CENTER_MM[2])
    neck = (from_middle < NECK_RADIUS_MM) & (z < 140)
    shoulders = (((y - CENTER_MM[1]) / 66) ** 2 + ((x - CENTER_MM[2]) / 105) ** 2 < 1) & (z < 45)
    image = np.full(size, -1000, dtype=np.int16)
    texture = 40 + 60 * np.sin(z / 9) * np.sin(y / 8 + 1) * np.sin(x / 7 + 2)
    body = (head < 1) | neck | shoulders
    image[body] = texture[body]
    image[(head > 0.7) & (head < 0.88) & (z > 115)] = 700  # skull
    image[(np.hypot(y - CENTER_MM[1] - 20, x - CENTER_MM[2]) < 12) & (z < 130)] = 450  # vertebrae
    return image


def with_table(image, first_row=112):
    """A flat table behind the patient, as wide and long as the scan."""
    image = image.copy()
    image[:, first_row : first_row + 3] = np.maximum(image[:, first_row : first_row + 3], -50)
    return image


def with_holder(image, gap_mm, thickness_mm, foam=False, spacing=SPACING):
    """A curved head holder behind the skull; foam may fill the gap."""
    axes = [np.arange(n) * s for n, s in zip(image.shape, spacing, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    distance_mm = np.hypot((y - HEAD_MM[1]), (x - HEAD_MM[2]) * HEAD_RADII_MM[1] / HEAD_RADII_MM[2]) - HEAD_RADII_MM[1]
    behind = (y > HEAD_MM[1] + 30) & (z > 100) & (image < -700)
    image = image.copy()
    if foam:
        image[behind & (distance_mm < gap_mm)] = -600
    image[behind & (distance_mm >= gap_mm) & (distance_mm < gap_mm + thickness_mm)] = 60
    return image
