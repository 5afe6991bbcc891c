"""Tissues of a phantom with their CT numbers, and the description of its structures and their variation."""

from dataclasses import dataclass, replace

from data_preprocess.sources.phantom.shapes import Point, Shape

SIDES = ("left", "right")


@dataclass(frozen=True)
class Tissue:
    """CT number of a tissue: mean, standard deviation between patients, and standard deviation within a patient."""

    hu: float
    spread_hu: float
    texture_hu: float


@dataclass(frozen=True)
class Group:
    """Structures whose position and size vary together.

    Attributes:
        pivot: fixed point of the scaling.
        shift_mm: standard deviation of the displacement along each axis.
        scale: relative standard deviation of the size along each axis.
    """

    pivot: Point
    shift_mm: float
    scale: float


@dataclass(frozen=True)
class Structure:
    """One solid of the phantom.

    Attributes:
        shape: of the left side if paired.
        tissue: key of `TISSUES`.
        group: key of `GROUPS`.
        core: (tissue, depth in mm): another tissue below that depth, such as marrow in bone.
        paired: also on the right side.
        organ: name of its organ, without "_left" or "_right" if paired.
        keeps_organs: keeps the organ labels of its voxels, such as a root in the jaw.
        outside: may reach through the skin; all other structures stay below it.
        probability: that it occurs in a patient, on each side.
    """

    shape: Shape
    tissue: str
    group: str = "body"
    core: tuple[str, float] | None = None
    paired: bool = False
    organ: str | None = None
    keeps_organs: bool = False
    outside: bool = False
    probability: float = 1.0

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that it is on; structures in the midline count as left."""
        return SIDES if self.paired else SIDES[:1]

    def on_side(self, side: str, **movement: Point) -> "Structure":
        """The structure of one side, its organ named with it and its shape moved as by `Shape.moved`."""
        shape = self.shape.moved(**movement)
        return replace(
            self,
            shape=shape.mirrored() if side == "right" else shape,
            organ=f"{self.organ}_{side}" if self.organ and self.paired else self.organ,
            paired=False,
        )


TISSUES = {
    "air": Tissue(-1000, 3, 2),
    "air_cells": Tissue(-850, 60, 60),
    "skin": Tissue(15, 15, 15),
    "fat": Tissue(-102, 6, 9),
    "orbital_fat": Tissue(-95, 6, 7),
    "muscle": Tissue(57, 5, 9),
    "mucosa": Tissue(42, 6, 8),
    "parotid": Tissue(8, 16, 13),
    "submandibular": Tissue(38, 9, 8),
    "node": Tissue(45, 8, 5),
    "thyroid": Tissue(105, 20, 8),
    "vessel": Tissue(45, 4, 3),
    "csf": Tissue(9, 2, 1),
    "gray_matter": Tissue(40, 2, 2),
    "white_matter": Tissue(31, 2, 2),
    "cerebellum": Tissue(39, 2, 3),
    "brainstem": Tissue(33, 2, 2),
    "chiasm": Tissue(36, 2, 1),
    "optic_nerve": Tissue(36, 4, 2),
    "cord": Tissue(40, 4, 2),
    "pituitary": Tissue(55, 6, 2),
    "dura": Tissue(60, 5, 2),
    "sclera": Tissue(50, 5, 3),
    "vitreous": Tissue(11, 3, 1),
    "lens": Tissue(95, 10, 2),
    "cortical_bone": Tissue(1250, 110, 90),
    "dense_bone": Tissue(1500, 120, 90),
    "marrow": Tissue(420, 90, 80),
    "thin_bone": Tissue(650, 90, 90),
    "cartilage": Tissue(150, 60, 60),
    "disc": Tissue(85, 10, 8),
    "tooth": Tissue(2000, 200, 80),
}

GROUPS = {
    "body": Group((0, 0, 0), 0.0, 0.0),
    "brainstem": Group((-14, 27, 0), 0.8, 0.05),
    "ventricles": Group((25, 15, 0), 1.0, 0.10),
    "sella": Group((10, 2, 0), 0.7, 0.04),
    "orbit": Group((8, -4, 6), 0.5, 0.03),
    "jaw": Group((-26, 5, 0), 0.8, 0.035),
    "sinuses": Group((-15, -35, 0), 1.0, 0.08),
    "airway": Group((-70, 4, 0), 1.0, 0.08),
    "neck": Group((-90, 30, 0), 1.0, 0.03),
    "vessels": Group((-90, 12, 26), 1.5, 0.05),
    "parotid": Group((-50, 10, 54), 1.2, 0.08),
    "submandibular": Group((-89, -14, 33), 1.5, 0.08),
    "ears": Group((-15, 18, 72), 1.5, 0.08),
}
