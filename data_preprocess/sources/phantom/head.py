"""The template's head without muscles and organs: skull, brain, face, sinuses, ears and orbits.

Coordinates as in `anatomy`.
"""

from data_preprocess.sources.phantom.shapes import (
    Box,
    BrainCase,
    Column,
    Difference,
    Ellipsoid,
    Folds,
    Overlap,
    Tube,
    arch,
)
from data_preprocess.sources.phantom.tissues import Structure

BONE = {"tissue": "cortical_bone", "core": ("marrow", 1.8)}
THIN_BONE = {"tissue": "thin_bone", "paired": True}


def skull_and_brain() -> list[Structure]:
    """Vault, base, brain, ventricles and cisterns, pituitary."""
    brain = BrainCase(-2.0, -1.5)
    cerebellum = Overlap(Ellipsoid((-25, 64, 0), (24, 32, 50)), BrainCase(-2.5, -2.0))
    lateral_ventricle = Tube(
        ((27, -18, 8), (38, 14, 11), (30, 44, 22), (8, 36, 32), (-4, 16, 33)), (4.5, 4.5, 6, 3, 2), (1, 1, 0.8)
    )
    cistern = Tube(
        ((13, 14, 0), (0, 22, 0), (-14, 23, 0), (-36, 33, 0), (-50, 42, 0)), (15, 17, 17, 12, 9), (1, 0.85, 1.15)
    )
    clivus = Tube(((-4, 10, 0), (-20, 18, 0), (-36, 24, 0)), (6, 5, 3.5), (1, 1, 2.2))
    petrous = Tube(((-8, 16, 13), (-12, 30, 36), (-16, 40, 58)), (5.5, 8, 9))
    return [
        Structure(Difference(BrainCase(6.5, 3.2), BrainCase()), "cortical_bone", core=("marrow", 2.2)),
        Structure(clivus, **BONE),
        Structure(BrainCase(), "csf"),
        Structure(brain, "gray_matter", core=("white_matter", 9.0)),
        Structure(Folds(brain, (26.0, 26.0, 26.0), 0.7, 16.0), "csf"),
        Structure(Overlap(Ellipsoid((45, 20, 0), (55, 82, 0.9)), BrainCase()), "dura"),  # falx
        Structure(Overlap(Ellipsoid((-25, 64, 0), (26, 34, 53)), BrainCase()), "csf"),
        Structure(cerebellum, "cerebellum"),
        Structure(Folds(cerebellum, (9.0, 30.0, 60.0), 0.35, 14.0), "csf"),
        Structure(lateral_ventricle, "csf", "ventricles", paired=True),
        Structure(Ellipsoid((17, 12, 0), (9, 14, 2.3)), "csf", "ventricles"),  # third ventricle
        Structure(Overlap(cistern, BrainCase()), "csf", "brainstem"),
        Structure(Ellipsoid((11, 2, 0), (8, 12, 15)), "csf", "sella"),  # suprasellar cistern
        Structure(Ellipsoid((5, 37, 0), (8, 5, 9)), "csf", "brainstem"),  # quadrigeminal cistern
        Structure(petrous, "dense_bone", core=("cortical_bone", 3.0), paired=True),
        Structure(Ellipsoid((0, 0, 0), (4.5, 6, 7)), "pituitary", "sella"),
    ]


def facial_bones() -> list[Structure]:
    """Upper jaw, palate, zygoma, sphenoid body, orbital walls and rims, pterygoid plates."""
    upper_jaw = arch(
        (
            (-27, 30, -58, -40, 5.5),
            (-42, 27.5, -58, -40, 6),
            (-56, 21, -58, -40, 6),
            (-66, 11, -58, -40, 6),
            (-69, 0, -58, -40, 5),
        )
    )
    zygoma = Tube(
        ((-26, -60, 37), (-22, -52, 51), (-20, -36, 60), (-20, -14, 66), (-18, 8, 63)),
        (6, 6, 3.2, 2.6, 3.5),
        (1.2, 1, 1),
    )
    orbit_wall = Tube(((-2, -64, 34), (-1, -40, 26), (1, -19, 17)), (19.5, 15.5, 6.5))
    rims = (
        Tube(((13, -69, 12), (17, -70, 30), (8, -58, 49), (-18, -54, 50)), (4, 4.5, 4, 4)),
        Tube(((-20, -68, 20), (-22, -62, 42)), (3.5, 3.5)),
        Tube(((-38, -68, 14), (-10, -72, 8), (4, -70, 7)), (3, 2.5, 3)),
        Tube(((0, -72, 3), (-15, -81, 3)), (2.2, 1.3)),
    )
    pterygoid_plates = (Ellipsoid((-38, -19, 13), (13, 8, 1.3)), Ellipsoid((-38, -19, 20), (13, 9, 1.3)))
    return [
        Structure(upper_jaw, **BONE),
        Structure(Ellipsoid((-42, -46, 0), (3, 25, 27)), "cortical_bone"),
        Structure(zygoma, **BONE, paired=True),
        Structure(Ellipsoid((-11, -9, 0), (13, 18, 19)), **BONE),
        Structure(Overlap(orbit_wall, Box((-30, -66, 0), (30, 0, 60))), **THIN_BONE),
        *(Structure(rim, **BONE, paired=True) for rim in rims),
        *(Structure(plate, **THIN_BONE) for plate in pterygoid_plates),
        Structure(Tube(((-34, 18, 38), (-60, 7, 34)), (1.8, 1.0)), **THIN_BONE),  # styloid process
    ]


def nose_and_sinuses() -> list[Structure]:
    """Nasal cavity with septum and turbinates, and the sinuses around it."""
    cavity = Column(((-4, -46, 20, 4), (-14, -46, 22, 7), (-28, -47, 25, 12), (-39, -48, 25, 14)), power=3.0)
    turbinates = (
        Tube(((-33, -64, 9), (-33, -30, 9)), (4, 4), (1.4, 1, 1)),
        Tube(((-21, -60, 6), (-21, -32, 6)), (2.5, 2.5), (1.6, 1, 1)),
    )
    ethmoid = Ellipsoid((-6, -44, 7), (11, 20, 7))
    nostril = Tube(((-46, -88, 6), (-37, -78, 6), (-34, -68, 6)), (3, 3.5, 4))
    return [
        Structure(Ellipsoid((-28, -46, 29), (18.5, 19, 15)), **THIN_BONE, group="sinuses", core=("air", 1.3)),
        Structure(ethmoid, "air_cells", "sinuses", paired=True),
        Structure(Folds(ethmoid, (17.0, 17.0, 17.0), 0.3), **THIN_BONE, group="sinuses"),
        Structure(Ellipsoid((-13, -12, 6), (8, 12, 5.6)), "air", "sinuses", paired=True),  # sphenoid
        Structure(Ellipsoid((22, -72, 9), (9, 3.5, 8)), "air", "sinuses", paired=True, probability=0.8),  # frontal
        Structure(cavity, "mucosa", core=("air", 1.2)),
        *(Structure(turbinate, "mucosa", paired=True) for turbinate in turbinates),
        Structure(Ellipsoid((-22, -47, 0), (19, 27, 0.9)), "mucosa"),  # septum
        Structure(nostril, "air", paired=True, outside=True),
    ]


def ears() -> list[Structure]:
    """Mastoid with its air cells, outer ear and ear canal."""
    mastoid = Ellipsoid((-26, 34, 55), (20, 14, 11))
    outer_ear = Tube(((0, 26, 77), (-14, 22, 76), (-30, 20, 73)), (10, 9, 6), (1.2, 1.1, 0.35))
    canal = Tube(((-20, 13, 52), (-19, 14, 84)), (2.6, 3))
    return [
        Structure(mastoid, "cortical_bone", core=("air_cells", 2.5), paired=True),
        Structure(Folds(Ellipsoid((-26, 34, 55), (18, 12, 9)), (11.0, 11.0, 11.0), 0.5), **THIN_BONE),
        Structure(outer_ear, "skin", "ears", paired=True, outside=True),
        Structure(canal, "air", "ears", paired=True, outside=True),
    ]


def orbits() -> list[Structure]:
    """Fat, muscles, lacrimal glands, lids and globes; the optic nerves are organs, which are rendered later."""
    inside = Tube(((-2, -64, 34), (-1, -40, 26), (1, -19, 17)), (17.5, 13.5, 4))
    muscles = (
        Tube(((1, -20, 15), (-2, -44, 18.5), (-2, -58, 20.5)), (1.2, 2.2, 1.4), (1.4, 1, 1)),
        Tube(((1, -20, 18.5), (-2, -42, 38), (-2, -56, 44.5)), (1.2, 2.2, 1.4), (1.4, 1, 1)),
        Tube(((3.5, -20, 17), (10, -42, 27), (9, -58, 32)), (1.2, 2.0, 1.4), (1, 1, 1.4)),
        Tube(((-2, -20, 17), (-12, -42, 28), (-13, -57, 32)), (1.2, 2.2, 1.4), (1, 1, 1.4)),
    )
    paired = {"group": "orbit", "paired": True}
    return [
        Structure(Overlap(inside, Box((-30, -68, 0), (30, 0, 60))), "orbital_fat", **paired),
        Structure(Tube(((1, -20, 17), (4, -13, 12)), (3.5, 3.5)), "csf", **paired),  # optic canal
        *(Structure(muscle, "muscle", **paired) for muscle in muscles),
        Structure(Ellipsoid((7, -58, 44), (6, 5, 3.5)), "mucosa", **paired),  # lacrimal gland
        Structure(Ellipsoid((-2, -72, 33), (13, 5, 17)), "skin", **paired),  # lids
        Structure(Ellipsoid((-2, -60, 32), (12, 12.3, 12)), "sclera", core=("vitreous", 1.8), **paired),
        Structure(Ellipsoid((-2, -67.5, 32), (4.5, 2.2, 4.5)), "lens", **paired),
    ]
