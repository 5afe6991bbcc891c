"""The same voxels in another order, for tests: all 48 ways to run along a grid's axes."""

from itertools import permutations, product

import numpy as np

from utils.imaging.geometry import Geometry
from utils.io.volumes import Volume

ALL_48 = [(order, flips) for order in permutations(range(3)) for flips in product((False, True), repeat=3)]


def reoriented(volume: Volume, order: tuple[int, int, int], flips: tuple[bool, bool, bool]) -> Volume:
    """Permute and turn round a volume's axes; every voxel stays where it is in the patient."""
    old = volume.geometry
    array = volume.array.transpose(order)
    columns = np.reshape(old.direction, (3, 3))[:, ::-1][:, list(order)]  # along the array's axes
    first = [0, 0, 0]
    for axis, flip in enumerate(flips):
        if flip:
            array = np.flip(array, axis)
            columns[:, axis] *= -1
            first[order[axis]] = old.size_zyx[order[axis]] - 1
    geometry = Geometry(
        size_zyx=array.shape,
        spacing_zyx_mm=tuple(old.spacing_zyx_mm[axis] for axis in order),
        origin_xyz_mm=old.world_mm(tuple(first)),
        direction=tuple(columns[:, ::-1].ravel().tolist()),
    )
    return Volume(array=np.ascontiguousarray(array), geometry=geometry)
