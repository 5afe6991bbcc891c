"""The template's head without muscles and organs: skull, brain, face, sinuses, ears and orbits.

Coordinates as in `anatomy`.
"""

import numpy as np

from data_preprocess.sources.phantom.shapes import Array, Shape, arch, box, column, ellipsoid, folds, smooth_min, tube
from data_preprocess.sources.phantom.tissues import Structure

BONE = {"tissue": "cortical_bone", "core": ("marrow", 1.8)}
THIN_BONE = {"tissue": "thin_bone", "paired": True}

VAULT = ellipsoid((24.0, 18.0, 0.0), (67.0, 85.0, 70.0))

# Profiles along y of the brain case: y, then the width relative to the vault's, or the height of the floor
WIDTH = ((-70, -20, 25), (0.80, 0.90, 1.0))
MIDLINE_FLOOR = ((-70, -40, -14, -6, 3, 9, 14, 25, 32, 60, 100), (9, 4, 3, 4, 3, 0, -14, -38, -46, -48, -22))
LATERAL_FLOOR = (
    (-70, -50, -30, -22, -14, 10, 20, 27, 34, 45, 70, 100), (20, 18, 14, 10, -16, -20, -16, -8, -20, -42, -46, -22),
)  # fmt: skip
FLOOR_SLANT = ((-20, 15), (0.35, -0.35))
LATERAL_FROM_MM, LATERAL_TO_MM = 12.0, 26.0


def brain_case(vault_mm: float = 0.0, floor_mm: float = 0.0) -> Shape:
    """The inside of the skull, an egg-shaped vault on a floor that steps down to the back, enlarged by two margins."""

    def distance(z: Array, y: Array, x: Array) -> Array:
        beside = np.maximum(np.abs(x) - LATERAL_FROM_MM, 0)
        sideways = np.minimum(beside / (LATERAL_TO_MM - LATERAL_FROM_MM), 1)
        slant = np.interp(y, *FLOOR_SLANT).astype(y.dtype)
        narrowing = np.interp(y, *WIDTH).astype(y.dtype)
        midline = np.interp(y, *MIDLINE_FLOOR).astype(y.dtype)
        lateral = np.interp(y + slant * beside, *LATERAL_FLOOR).astype(y.dtype)
        floor = midline + sideways * sideways * (3 - 2 * sideways) * (lateral - midline)
        above_vault = VAULT.distance(z, y, x / narrowing) - vault_mm
        below_floor = 0.7 * (floor - z) - floor_mm
        return -smooth_min(-above_vault, -below_floor, 4.0)

    low, high = VAULT.bounds + np.outer((-1, 1), [vault_mm] * 3)
    return Shape(distance, np.array([(-50.0 - floor_mm, *low[1:]), high]))


def skull_and_brain() -> list[Structure]:
    """Vault, base, brain, ventricles and cisterns, pituitary."""
    brain = brain_case(-2.0, -1.5)
    cerebellum = ellipsoid((-25, 64, 0), (24, 32, 50)) & brain_case(-2.5, -2.0)
    lateral_ventricle = tube(
        ((27, -18, 8), (38, 14, 11), (30, 44, 22), (8, 36, 32), (-4, 16, 33)), (4.5, 4.5, 6, 3, 2), (1, 1, 0.8)
    )
    cistern = tube(
        ((13, 14, 0), (0, 22, 0), (-14, 23, 0), (-36, 33, 0), (-50, 42, 0)), (15, 17, 17, 12, 9), (1, 0.85, 1.15)
    )
    clivus = tube(((-4, 10, 0), (-20, 18, 0), (-36, 24, 0)), (6, 5, 3.5), (1, 1, 2.2))
    petrous = tube(((-8, 16, 13), (-12, 30, 36), (-16, 40, 58)), (5.5, 8, 9))
    return [
        Structure(brain_case(6.5, 3.2) - brain_case(), "cortical_bone", core=("marrow", 2.2)),
        Structure(clivus, **BONE),
        Structure(brain_case(), "csf"),
        Structure(brain, "gray_matter", core=("white_matter", 9.0)),
        Structure(folds(brain, (26.0, 26.0, 26.0), 0.7, 16.0), "csf"),
        Structure(ellipsoid((45, 20, 0), (55, 82, 0.9)) & brain_case(), "dura"),  # falx
        Structure(ellipsoid((-25, 64, 0), (26, 34, 53)) & brain_case(), "csf"),
        Structure(cerebellum, "cerebellum"),
        Structure(folds(cerebellum, (9.0, 30.0, 60.0), 0.35, 14.0), "csf"),
        Structure(lateral_ventricle, "csf", "ventricles", paired=True),
        Structure(ellipsoid((17, 12, 0), (9, 14, 2.3)), "csf", "ventricles"),  # third ventricle
        Structure(cistern & brain_case(), "csf", "brainstem"),
        Structure(ellipsoid((11, 2, 0), (8, 12, 15)), "csf", "sella"),  # suprasellar cistern
        Structure(ellipsoid((5, 37, 0), (8, 5, 9)), "csf", "brainstem"),  # quadrigeminal cistern
        Structure(petrous, "dense_bone", core=("cortical_bone", 3.0), paired=True),
        Structure(ellipsoid((0, 0, 0), (4.5, 6, 7)), "pituitary", "sella"),
    ]


def facial_bones() -> list[Structure]:
    """Upper jaw, palate, zygoma, sphenoid body, orbital walls and rims, pterygoid plates."""
    upper_jaw = arch((
        (-27, 30, -58, -40, 5.5), (-42, 27.5, -58, -40, 6), (-56, 21, -58, -40, 6), (-66, 11, -58, -40, 6),
        (-69, 0, -58, -40, 5),
    ))  # fmt: skip
    zygoma_points = ((-26, -60, 37), (-22, -52, 51), (-20, -36, 60), (-20, -14, 66), (-18, 8, 63))
    zygoma = tube(zygoma_points, (6, 6, 3.2, 2.6, 3.5), (1.2, 1, 1))
    orbit_wall = tube(((-2, -64, 34), (-1, -40, 26), (1, -19, 17)), (19.5, 15.5, 6.5))
    rims = (
        tube(((13, -69, 12), (17, -70, 30), (8, -58, 49), (-18, -54, 50)), (4, 4.5, 4, 4)),
        tube(((-20, -68, 20), (-22, -62, 42)), (3.5, 3.5)),
        tube(((-38, -68, 14), (-10, -72, 8), (4, -70, 7)), (3, 2.5, 3)),
        tube(((0, -72, 3), (-15, -81, 3)), (2.2, 1.3)),
    )
    pterygoid_plates = (ellipsoid((-38, -19, 13), (13, 8, 1.3)), ellipsoid((-38, -19, 20), (13, 9, 1.3)))
    return [
        Structure(upper_jaw, **BONE),
        Structure(ellipsoid((-42, -46, 0), (3, 25, 27)), "cortical_bone"),
        Structure(zygoma, **BONE, paired=True),
        Structure(ellipsoid((-11, -9, 0), (13, 18, 19)), **BONE),
        Structure(orbit_wall & box((-30, -66, 0), (30, 0, 60)), **THIN_BONE),
        *(Structure(rim, **BONE, paired=True) for rim in rims),
        *(Structure(plate, **THIN_BONE) for plate in pterygoid_plates),
        Structure(tube(((-34, 18, 38), (-60, 7, 34)), (1.8, 1.0)), **THIN_BONE),  # styloid process
    ]


def nose_and_sinuses() -> list[Structure]:
    """Nasal cavity with septum and turbinates, and the sinuses around it."""
    cavity = column(((-4, -46, 20, 4), (-14, -46, 22, 7), (-28, -47, 25, 12), (-39, -48, 25, 14)), power=3.0)
    turbinates = (
        tube(((-33, -64, 9), (-33, -30, 9)), (4, 4), (1.4, 1, 1)),
        tube(((-21, -60, 6), (-21, -32, 6)), (2.5, 2.5), (1.6, 1, 1)),
    )
    ethmoid = ellipsoid((-6, -44, 7), (11, 20, 7))
    nostril = tube(((-46, -88, 6), (-37, -78, 6), (-34, -68, 6)), (3, 3.5, 4))
    return [
        Structure(ellipsoid((-28, -46, 29), (18.5, 19, 15)), **THIN_BONE, group="sinuses", core=("air", 1.3)),
        Structure(ethmoid, "air_cells", "sinuses", paired=True),
        Structure(folds(ethmoid, (17.0, 17.0, 17.0), 0.3), **THIN_BONE, group="sinuses"),
        Structure(ellipsoid((-13, -12, 6), (8, 12, 5.6)), "air", "sinuses", paired=True),  # sphenoid
        Structure(ellipsoid((22, -72, 9), (9, 3.5, 8)), "air", "sinuses", paired=True, probability=0.8),  # frontal
        Structure(cavity, "mucosa", core=("air", 1.2)),
        *(Structure(turbinate, "mucosa", paired=True) for turbinate in turbinates),
        Structure(ellipsoid((-22, -47, 0), (19, 27, 0.9)), "mucosa"),  # septum
        Structure(nostril, "air", paired=True, outside=True),
    ]


def ears() -> list[Structure]:
    """Mastoid with its air cells, outer ear and ear canal."""
    mastoid = ellipsoid((-26, 34, 55), (20, 14, 11))
    outer_ear = tube(((0, 26, 77), (-14, 22, 76), (-30, 20, 73)), (10, 9, 6), (1.2, 1.1, 0.35))
    canal = tube(((-20, 13, 52), (-19, 14, 84)), (2.6, 3))
    return [
        Structure(mastoid, "cortical_bone", core=("air_cells", 2.5), paired=True),
        Structure(folds(ellipsoid((-26, 34, 55), (18, 12, 9)), (11.0, 11.0, 11.0), 0.5), **THIN_BONE),
        Structure(outer_ear, "skin", "ears", paired=True, outside=True),
        Structure(canal, "air", "ears", paired=True, outside=True),
    ]


def orbits() -> list[Structure]:
    """Fat, muscles, lacrimal glands, lids and globes; the optic nerves are organs, which are rendered later."""
    inside = tube(((-2, -64, 34), (-1, -40, 26), (1, -19, 17)), (17.5, 13.5, 4))
    muscles = (
        tube(((1, -20, 15), (-2, -44, 18.5), (-2, -58, 20.5)), (1.2, 2.2, 1.4), (1.4, 1, 1)),
        tube(((1, -20, 18.5), (-2, -42, 38), (-2, -56, 44.5)), (1.2, 2.2, 1.4), (1.4, 1, 1)),
        tube(((3.5, -20, 17), (10, -42, 27), (9, -58, 32)), (1.2, 2.0, 1.4), (1, 1, 1.4)),
        tube(((-2, -20, 17), (-12, -42, 28), (-13, -57, 32)), (1.2, 2.2, 1.4), (1, 1, 1.4)),
    )
    paired = {"group": "orbit", "paired": True}
    return [
        Structure(inside & box((-30, -68, 0), (30, 0, 60)), "orbital_fat", **paired),
        Structure(tube(((1, -20, 17), (4, -13, 12)), (3.5, 3.5)), "csf", **paired),  # optic canal
        *(Structure(muscle, "muscle", **paired) for muscle in muscles),
        Structure(ellipsoid((7, -58, 44), (6, 5, 3.5)), "mucosa", **paired),  # lacrimal gland
        Structure(ellipsoid((-2, -72, 33), (13, 5, 17)), "skin", **paired),  # lids
        Structure(ellipsoid((-2, -60, 32), (12, 12.3, 12)), "sclera", core=("vitreous", 1.8), **paired),
        Structure(ellipsoid((-2, -67.5, 32), (4.5, 2.2, 4.5)), "lens", **paired),
    ]
