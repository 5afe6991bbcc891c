"""Recognizes different names of the same organ: "Optic-Nerve-Lt", "OpticNrv_L" and "optic_nerve_left"."""

import re
import unicodedata

from utils.config.organ_translations import translate

SIDES = {"l": "left", "lt": "left", "left": "left", "r": "right", "rt": "right", "right": "right"}

SYNONYMS = (
    ("Brainstem", "Brain stem"),
    ("SpinalCord", "Cord"),
    ("SpinalCanal", "Spinal canal"),
    ("OpticChiasm", "Chiasm"),
    ("OpticNrv", "Optic nerve"),
    ("Bone_Mandible", "Mandible"),
    ("Parotid", "Parotid gland", "Glnd_Parotid"),
    ("Glnd_Submand", "Submandibular", "Submandibular gland", "SMG"),
    ("Glnd_Lacrimal", "Lacrimal", "Lacrimal gland"),
    ("Glnd_Thyroid", "Thyroid", "Thyroid gland"),
    ("Glnd_Subling", "Glnd_Sublingual", "Sublingual", "Sublingual gland"),
    ("Eye", "Orbit", "Globe", "Eyeball"),
    ("Lens", "Eye lens"),
    ("Cochlea",),
    ("Lung",),
    ("Brain",),
    ("Pituitary", "Pituitary gland", "Hypophysis"),
    ("Cavity_Oral", "Oral cavity"),
    ("Lips", "Lip"),
    ("Esophagus", "Oesophagus"),
    ("Larynx",),
    ("Larynx_SG", "Supraglottic larynx", "Supraglottis"),
    ("Glottis", "Glottic area"),
    ("A_Carotid", "Carotid", "Carotid artery"),
    ("Arytenoid", "Arytenoids"),
    ("Trachea",),
    ("Musc_Constrict", "Pharyngeal constrictor", "Pharyngeal constrictors", "Pharynx constrictor"),
    ("Lobe_Temporal", "TemporalLobe", "Temporal lobe"),
    ("Hippocampus",),
    ("BrachialPlex", "Brachial plexus"),
    ("Joint_TM", "TMJ", "Temporomandibular joint"),
)
"""Names of an organ without its side. The first is the standard name of TG-263 (Mayo et al., Int J Radiat Oncol Biol
Phys 100 (2018) 1057-1066), which clinics use."""


def organ_key(name: str) -> str:
    """A key that is the same for all spellings of an organ's name, for example "opticnerve left".

    It ignores case, blanks, hyphens, underscores and dots. A word for the side may come first or last; the key contains
    both sides if the name does.
    """
    composed = unicodedata.normalize("NFC", name)  # macOS stores an umlaut as a letter and its dots
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", composed)
    words = [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]
    sides = dict.fromkeys(SIDES[word] for word in words if word in SIDES)
    rest = "".join(word for word in words if word not in SIDES)
    return " ".join([rest, *sides]) if rest else " ".join(words)


def common_key(name: str) -> str:
    """A key that is also the same for all `SYNONYMS` and their translations: "Glnd_Submand_L", "Submandibular Left" and
    "Unterkieferdrüse li" have one key.
    """
    rest, space, side = organ_key(name).partition(" ")
    if rest in _COMMON:
        return _COMMON[rest] + space + side
    translated = translate(name)
    return " ".join([_COMMON[organ_key(translated.organ)], *translated.sides]) if translated else rest + space + side


def organ_side(name: str) -> str | None:
    """The side in an organ's name, "left" or "right"; None if it names none, or both."""
    side = common_key(name).partition(" ")[2]
    return side if side in ("left", "right") else None


def without_side(name: str) -> str:
    """`common_key` without the side: "opticnrv" of "OpticNerve_L"."""
    return common_key(name).partition(" ")[0]


def tg263_name(name: str) -> str | None:
    """The name of an organ in TG-263, for example "OpticNrv_L"; None for organs that `SYNONYMS` does not list."""
    rest, _, side = common_key(name).partition(" ")
    standard = _TG_263.get(rest)
    if standard is None or side not in ("", "left", "right"):
        return None
    return f"{standard}_{side[0].upper()}" if side else standard


def is_organ_name(name: str) -> bool:
    """Whether the text is a name that `SYNONYMS` lists, or a translation of one, on either side or on none."""
    return without_side(name) in _TG_263


_COMMON = {organ_key(name): organ_key(names[0]) for names in SYNONYMS for name in names}
_TG_263 = {organ_key(names[0]): names[0] for names in SYNONYMS}
