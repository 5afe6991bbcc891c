"""Known volumes of organs in head-and-neck CT, to notice contours and masks that cannot be right."""

from typing import NamedTuple

from utils.config.organ_names import common_key

KNOWN_VOLUMES_ML = {
    "Brain": (50, 2600),  # 1210 to 1765 (N); scans may cut it off
    "Brainstem": (3, 70),  # 5.5 to 48 (N, B)
    "SpinalCord": (2.5, 90),  # 5.3 to 57 (N, B)
    "SpinalCanal": (10, 270),  # 41 to 179 (N)
    "OpticChiasm": (0.05, 2),  # about 0.3: 3.5 x 15 mm across (Parravano et al., J Comput Assist Tomogr 17 (1993) 688)
    "OpticNrv_L": (0.1, 2.5),  # 0.27 to 1.3 (N)
    "Bone_Mandible": (15, 170),  # 29 to 112 (N, B)
    "Parotid_L": (2.5, 120),  # 5.2 to 80 (N, B); 25 g (I)
    "Glnd_Submand_L": (1.5, 30),  # 4.4 to 13.5 (N); 12.5 g (I)
    "Glnd_Lacrimal_L": (0.1, 2.5),  # 0.25 to 1.3 (N); 0.7 (Bingham et al. (2014), doi 10.1097/IOP.0000000000000117)
    "Glnd_Thyroid": (3, 120),  # 17 to 20 g (I); goiters are larger
    "Eye_L": (3, 18),  # 5.7 to 11.3 (N); 7.5 g (I)
    "Lens_L": (0.03, 0.7),  # 0.05 to 0.31 (N)
    "Cochlea_L": (0.01, 0.8),  # 0.02 to 0.16 (N); some clinics contour the bone around it
    "Lung_L": (10, 4500),  # 100 to 2581 (N); most scans cut it off
    "Pituitary": (0.1, 2),  # 0.6 (Chen et al. (2017), doi 10.3969/j.issn.1674-8115.2017.05.020)
    "Esophagus": (1, 60),  # 2.2 to 41 (B); 40 g (I); most scans cut it off
    "Larynx": (2, 115),  # 0.5 to 76 (B); 34 (Choi et al., Radiat Oncol 9 (2014) 285)
}
"""Lowest and highest plausible volume by TG-263 name, those of a pair by their left side. Behind each: the smallest and
largest contour in ml, or the mass of an adult's organ. The margins are generous, because scans cut organs off and
clinics contour them differently.

N: Nikolov et al., J Med Internet Res 23(7) (2021) e26151, 24 scans, two observers. B: OpenKBP, Babier et al., Med Phys
48 (2021) 5549, 203 patients without two cords of 478 and 543 ml. I: reference adults, ICRP Publication 89 (2002)."""


class VolumeRange(NamedTuple):
    """A range of plausible volumes."""

    low_ml: float
    high_ml: float

    def __contains__(self, volume_ml: object) -> bool:
        return self.low_ml <= volume_ml <= self.high_ml


def known_volume(organ: str) -> VolumeRange | None:
    """The volumes that an organ can have, by any of its names; None for an organ that the table does not list.

    A pair without a side ("Parotids") may be both glands and has no range.
    """
    return _RANGES.get(common_key(organ).replace(" right", " left"))


_RANGES = {common_key(name): VolumeRange(*limits) for name, limits in KNOWN_VOLUMES_ML.items()}
