"""The template's chest, for scans that reach below the neck.

Coordinates as in `anatomy`; only what continues from the neck reaches above the lung apex.
"""

from data_preprocess.sources.phantom.shapes import column, ellipsoid, tube
from data_preprocess.sources.phantom.tissues import Structure

CHEST_TOP_Z_MM = -185.0
"""Where the lungs begin."""

# Sections of the trunk's skin below the shoulders, as in `Column`
TRUNK = ((-300, 36, 92, 172), (-420, 30, 108, 174), (-560, 28, 108, 162))

TEMPLATE: tuple[Structure, ...] = (
    Structure(
        column(((-190, 40, 58, 92), (-230, 40, 70, 118), (-300, 36, 82, 150), (-560, 28, 98, 150)))
        - column(((-190, 40, 46, 80), (-230, 40, 56, 104), (-300, 36, 66, 134), (-560, 28, 82, 134))),
        "muscle",
    ),
    Structure(
        column(
            ((-185, 40, 18, 16), (-215, 38, 40, 32), (-280, 34, 62, 46), (-400, 30, 74, 50), (-560, 30, 70, 46)), x=66
        ),
        "air_cells",
        paired=True,
    ),
    Structure(ellipsoid((-370, 0, 22), (52, 44, 50)), "vessel"),
    Structure(column(((-230, 22, 40, 22), (-300, 20, 46, 26), (-560, 20, 46, 30))), "muscle"),
    Structure(column(((-220, 66, 10, 13), (-560, 74, 14, 16))), "cortical_bone", core=("marrow", 2.0)),
    Structure(column(((-230, 92, 12, 22), (-560, 100, 12, 24))), "muscle"),
    Structure(tube(((-210, -22, 10), (-235, -40, 0), (-380, -62, 0)), (8, 9, 8), (1, 0.7, 1.6)), "marrow"),
    Structure(tube(((-215, -10, 20), (-195, 10, 90), (-190, 24, 130)), (6, 6, 7)), "cortical_bone", paired=True),
    Structure(column(((-225, 12, 9, 9), (-310, 26, 9, 10))), "air"),
)  # fmt: skip
CHEST = tuple(structure.on_side(side) for structure in TEMPLATE for side in structure.sides)
"""The same in every patient."""
