"""The template patient: shape and tissue of every structure of the head and neck, in the order of rendering.

Coordinates are (z, y, x) in mm from the middle of the sella: z to the vertex, y to the back, x to the left, head level.
Paired structures are given for the left side. Distances are those of an average adult.
"""

import numpy as np

from data_preprocess.sources.phantom import head
from data_preprocess.sources.phantom.chest import TRUNK
from data_preprocess.sources.phantom.shapes import (
    Shape,
    arch,
    box,
    column,
    ellipsoid,
    folds,
    plate,
    ribbon,
    tube,
    union,
)
from data_preprocess.sources.phantom.tissues import Structure

BODY = union(
    ellipsoid((24, 18, 0), (79, 97.5, 79)),
    column((
        (40, -15, 62, 58), (20, -18, 60, 67), (0, -14, 63, 71), (-20, -10, 70, 71), (-45, -11, 73, 69),
        (-70, -16, 66, 63), (-90, -15, 60, 55), (-105, -15, 54, 46), (-116, -13, 46, 37), (-124, -10, 38, 30),
    ), power=2.3),
    column((
        (-20, 50, 52, 60), (-50, 44, 54, 59), (-80, 33, 57, 58), (-110, 26, 62, 58), (-130, 26, 62, 61),
        (-150, 30, 62, 70), (-170, 34, 64, 88), (-230, 40, 66, 140), *TRUNK,
    )),
    tube(((3, -72, 0), (-20, -84, 0), (-36, -92, 0), (-42, -82, 0)), (6, 7, 7.5, 9)),
    ellipsoid((-39, -83, 9), (5, 7, 6)),
    ellipsoid((-39, -83, -9), (5, 7, 6)),
    ellipsoid((-70, -80, 0), (10, 8, 22)),
    ellipsoid((-99, -66, 0), (12, 9, 17)),
    ellipsoid((-122, -32, 0), (13, 8, 11)),
    blend_mm=8.0,
)  # fmt: skip

# (z, y) of the vertebral bodies
SPINE = (
    (-50, 27), (-62, 27), (-82, 26), (-99, 25), (-116, 26), (-133, 29), (-150, 34), (-168, 41), (-187, 50), (-230, 66),
)  # fmt: skip
VERTEBRAE = SPINE[2:9]

# Sections of the airway as in `Column`
PHARYNX = (
    (-22, -12, 5, 6), (-30, -8, 8, 11), (-42, -5, 9, 12), (-52, -3, 6, 11), (-60, 1, 5, 10), (-75, 3, 6, 11),
    (-90, 2, 6, 13), (-100, 0, 6, 9), (-108, -4, 6, 6), (-116, -9, 8, 6), (-123, -12, 9, 4), (-128, -11, 9, 3),
    (-135, -7, 9, 8), (-150, -1, 9, 9), (-230, 10, 9, 9),
)  # fmt: skip

# As in `Ribbon`
JAW_POSTS = (
    (-8, 46.5, -84, -66, 4.0), (-22, 43.5, -91, -71, 5.0), (-38, 35.5, -97, -74, 5.3), (-52, 25, -103, -77, 5.1),
    (-60.5, 13, -107, -79, 5.1), (-63.5, 0, -108, -80, 5.7),
)  # fmt: skip

# (z, y)
RAMUS = (
    (-24, 9), (-34, 9), (-60, 7), (-76, 6), (-84, -2), (-87, -12), (-70, -26), (-55, -25), (-40, -24), (-27, -26),
    (-26, -22), (-37, -12), (-37, -6), (-30, -1), (-24, 0),
)  # fmt: skip

# (y, x, radius)
LOWER_TEETH = (
    (-64.5, 3, 2.6), (-63, 9, 2.7), (-59, 15, 3.1), (-53.5, 21, 3.4), (-47.5, 26.5, 3.5), (-39, 32, 4.8),
    (-28.5, 36.5, 4.8),
)  # fmt: skip
UPPER_TEETH = (
    (-71, 4, 3.2), (-69, 11.5, 2.9), (-64.5, 18, 3.3), (-58, 22.5, 3.4), (-51.5, 26, 3.4), (-42.5, 29, 4.8),
    (-32, 31, 4.8),
)  # fmt: skip

MUSCLES = (
    ellipsoid((6, -18, 63), (38, 28, 8)),  # temporalis
    ellipsoid((-57, -13, 56), (28, 16, 7)),  # masseter
    ellipsoid((-61, -10, 37), (22, 13, 6.5)),  # medial pterygoid
    ellipsoid((-33, -12, 34), (9, 18, 12)),  # lateral pterygoid
    tube(
        ((-42, 40, 57), (-80, 26, 55), (-110, 8, 47), (-150, -14, 29), (-230, -30, 14)), (7, 9, 9, 8, 7), (1, 1.3, 0.75)
    ),  # sternocleidomastoid
    tube(((-45, 82, 8), (-100, 80, 20), (-150, 82, 48), (-200, 70, 90)), (4, 5, 7, 9)),  # trapezius
    tube(((-55, 40, 34), (-100, 44, 37), (-170, 56, 55)), (6, 7.5, 9)),  # levator scapulae
    tube(((-70, 32, 26), (-120, 27, 31), (-190, 22, 50)), (6, 8, 10)),  # scalene
    tube(((-40, 16, 8), (-100, 14, 9), (-170, 28, 10)), (5, 5, 6), (1, 1, 1.3)),  # longus colli
    tube(((-46, 28, 47), (-70, 14, 40), (-92, -6, 29)), (4, 3.5, 2.5)),  # digastric
    tube(((-45, 12, 38), (-70, 2, 33), (-92, -10, 22)), (2, 3, 3)),  # styloid group
    ribbon(((-20, 39, -74, -48, 1.8), (-45, 36, -74, -46, 2.0), (-68, 22, -76, -48, 2.2))),  # buccinator
    tube(((-100, -18, 6), (-150, -14, 9), (-220, -14, 10)), (4, 4.5, 5), (1, 0.8, 1.4)),  # strap muscles
    ellipsoid((-28, -74, 26), (16, 3, 8)),  # muscles of expression
)

MIDLINE_MUSCLES = (
    ellipsoid((-69, -33, 0), (22, 35, 27)),  # tongue
    ellipsoid((-90, -36, 0), (11, 30, 25)),  # floor of the mouth
    ellipsoid((-99, -38, 0), (7, 26, 13)),
    ellipsoid((-70, -80, 0), (13, 5, 25)),  # lips
    ellipsoid((-96, -66, 0), (8, 6, 16)),  # chin
)


def _along_spine(top: float, bottom: float, behind_mm: float, radius_y: float, radius_x: float) -> Shape:
    """A column that follows the vertebral bodies, or a line `behind_mm` them."""
    heights = (top, *(z for z, _ in SPINE if bottom < z < top), bottom)
    y = np.interp(heights, *np.transpose(SPINE[::-1]))
    return column([(z, center + behind_mm, radius_y, radius_x) for z, center in zip(heights, y, strict=True)])


def _muscles_and_vessels() -> list[Structure]:
    nape = column((
        (-16, 84, 14, 40), (-44, 66, 25, 46), (-70, 59, 24, 45), (-100, 57, 27, 45), (-150, 57, 32, 52),
        (-230, 62, 36, 90),
    ), power=2.4)  # fmt: skip
    carotid = tube(((-38, 14, 27), (-90, 11, 26), (-120, 10, 25), (-170, 10, 20)), (2.6, 3.0, 3.6, 3.6))
    jugular = tube(((-38, 22, 31), (-90, 17, 33), (-150, 8, 32), (-190, 4, 26)), (4.5, 5.5, 6.5, 7))
    walls = column(tuple((z, y, ry + 5, rx + 5) for z, y, ry, rx in PHARYNX))
    parts = [Structure(nape, "muscle", "neck"), Structure(folds(nape, (900.0, 30.0, 42.0), 0.6), "fat", "neck")]
    parts += [Structure(shape, "muscle", "neck", paired=True) for shape in MUSCLES]
    parts += [Structure(shape, "muscle") for shape in MIDLINE_MUSCLES]
    parts.append(Structure(walls, "muscle", "airway"))
    parts += [Structure(vessel, "vessel", "vessels", paired=True) for vessel in (carotid, jugular)]
    nodes = (
        ellipsoid((-92, 14, 41), (5, 3.5, 3)),
        ellipsoid((-115, 20, 43), (6, 4, 3)),
        ellipsoid((-100, -40, 8), (4, 3, 3)),
    )
    return parts + [Structure(node, "node", "vessels", paired=True, probability=0.6) for node in nodes]


def _spine() -> list[Structure]:
    c1 = (
        (17, 0, -52, -44, 3), (21, 13, -53, -43, 3.5), (32, 22, -54, -42, 6), (48, 20, -52, -46, 3),
        (58, 0, -52, -44, 3),
    )  # fmt: skip
    dens = tube(((-66, 27, 0), (-43, 25.5, 0)), (8, 5))
    bone = {"tissue": "cortical_bone", "group": "neck", "core": ("marrow", 1.8)}
    parts = [
        Structure(_along_spine(-56, -230, 0, 8.5, 11.5), "disc", "neck"),
        Structure(union(dens, _along_spine(-58, -72, 0, 8, 11), blend_mm=3), **bone),
        Structure(ribbon(c1), **bone, paired=True),
        Structure(ellipsoid((-39, 33, 18), (7, 11, 6)), **bone, paired=True),
    ]
    for z, y in ((-64, 27), *VERTEBRAE):
        ring = _along_spine(z + 7, z - 7, 17, 13.5, 17) & box((z - 9, y + 8, -20), (z + 7, y + 40, 20))
        spinous = tube(((z - 2, y + 28, 0), (z - 8, y + 46, 0)), (3.2, 4.0), (1.3, 1, 1))
        body = _along_spine(z + 6, z - 6, 0, 8.5, 12.5)
        parts += [Structure(shape, **bone) for shape in ((body,) if z != -64 else ()) + (ring, spinous)]
        parts.append(Structure(ellipsoid((z, y + 11, 21), (9, 8, 6.5)), **bone, paired=True))
    return parts


def _brainstem_and_canal() -> list[Structure]:
    brainstem = column((
        (9, 23, 10, 16), (2, 23, 12.3, 18), (-5, 24.5, 12, 17), (-14, 27, 13, 18), (-22, 30, 12, 16.5),
        (-28, 32, 9.5, 13), (-36, 36, 7.5, 9.5), (-46, 41, 6, 7.5),
    ))  # fmt: skip
    upper_cord = column(((-44, 41, 5, 7), (-52, 43, 4.3, 6.5), (-58, 43.5, 4, 6.3)))
    return [
        Structure(column(((-34, 38, 10, 13), (-42, 41, 10, 13), (-52, 43, 9, 12), (-60, 43, 8, 11.5))), "csf", "neck"),
        Structure(_along_spine(-56, -230, 16.5, 7.5, 11.5), "csf", "neck"),
        Structure(union(upper_cord, _along_spine(-56, -230, 16.5, 4, 6.3)), "cord", "neck"),
        Structure(brainstem, "brainstem", "brainstem", organ="brainstem"),
        Structure(ellipsoid((3, 10, 0), (8, 6, 5)), "csf", "brainstem"),  # between the peduncles
        Structure(ellipsoid((-18, 43.5, 0), (9, 4.5, 7)), "csf", "brainstem"),  # fourth ventricle
    ]


def _airway() -> list[Structure]:
    thyroid_cartilage = arch(((6, 19, -130, -112, 1.5), (-10, 15, -130, -110, 1.6), (-27, 0, -128, -114, 1.8)))
    hyoid = arch(((0, 20, -100, -95, 1.8), (-14, 15, -101, -96, 2.2), (-23, 0, -103, -96, 2.6)))
    cricoid = column(((-131, -7, 12.5, 12), (-141, -6, 12.5, 12.5))) & box((-141, -30, -20), (-131, 20, 20))
    palate = tube(((-43, -22, 0), (-52, -11, 0), (-61, -7, 0)), (3, 3.5, 2.5), (1, 1, 4))
    oral_gap = tube(((-50, -58, 0), (-47, -40, 0), (-52, -22, 0)), (1.0, 1.4, 1.0), (1, 1, 8))
    return [
        Structure(ellipsoid((-122, -11, 0), (18, 15, 18)), "muscle", "airway"),
        Structure(thyroid_cartilage, "cartilage", "airway"),
        Structure(cricoid, "cartilage", "airway"),
        Structure(hyoid, "marrow", "airway"),
        Structure(ellipsoid((-152, 0, 15), (20, 9, 8)), "thyroid", "airway", paired=True),
        Structure(tube(((-140, 13, 0), (-170, 18, 3), (-230, 30, 5)), (5, 6, 6), (1, 1, 1.4)), "muscle", "airway"),
        Structure(column(PHARYNX), "air", "airway"),
        Structure(palate, "mucosa"),
        Structure(oral_gap, "air", probability=0.7),
    ]


def _organs() -> list[Structure]:
    nerve = tube(
        ((-2.5, -49, 30.5), (-1.5, -36, 25.5), (1, -24, 19), (4, -14, 12.5), (7, -8, 8.5), (8.5, -4, 6)),
        (2.3, 2.2, 2.2, 2.2, 2.2, 2.2),
    )
    tract = tube(((8.5, -4, 6), (10, 2, 0), (11.5, 9, -9)), (1.8, 2.1, 1.7))
    parotid = union(
        ellipsoid((-50, 5, 59.5), (28.5, 20.5, 8.5)),
        ellipsoid((-47, 18, 51), (22, 10.5, 13)),
        tube(((-60, 12, 58), (-78, 14, 55)), (8, 5), (1, 1.1, 0.8)),
        blend_mm=5.0,
    )
    ramus, condyle = plate(RAMUS, 51.5, 0.065, 3.6), ellipsoid((-27, 5, 49.5), (4.5, 4.5, 9))
    mandible = union(arch(JAW_POSTS), ramus, condyle, ramus.mirrored(), condyle.mirrored(), blend_mm=4.0)
    vein = tube(((-30, 10, 53), (-78, 12, 52)), (2.2, 2.6))
    submandibular = ellipsoid((-89, -14, 32.5), (14, 15, 9))
    return [
        Structure(parotid, "parotid", "parotid", paired=True, organ="parotid"),
        Structure(vein, "vessel", "parotid", paired=True, keeps_organs=True),
        Structure(submandibular, "submandibular", "submandibular", paired=True, organ="submandibular"),
        Structure(mandible, "cortical_bone", "jaw", core=("marrow", 2.3), organ="mandible"),
        Structure(nerve, "optic_nerve", "orbit", paired=True, organ="optic_nerve"),
        Structure(union(tract, tract.mirrored(), blend_mm=1.5), "chiasm", "sella", organ="chiasm"),
    ]


def _teeth() -> list[Structure]:
    parts = []
    for teeth, group, root_z, crown_z in ((LOWER_TEETH, "jaw", -90, -72), (UPPER_TEETH, "body", -48, -63)):
        for y, x, radius in teeth:
            root = tube(((root_z, y, x), (crown_z, y, x)), (0.5 * radius, 0.9 * radius))
            tooth = union(root, ellipsoid((crown_z, y, x), (5.5, radius, radius)))
            parts.append(Structure(tooth, "tooth", group, paired=True, keeps_organs=True, probability=0.93))
    return parts


STRUCTURES: tuple[Structure, ...] = (
    *_muscles_and_vessels(),
    *_spine(),
    *head.skull_and_brain(),
    *head.facial_bones(),
    *head.nose_and_sinuses(),
    *head.ears(),
    *_airway(),
    *head.orbits(),
    *_brainstem_and_canal(),
    *_organs(),
    *_teeth(),
)
