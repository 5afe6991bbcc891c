"""When two names mean the same organ: "Optic-Nerve-Lt", "OpticNerve_L" and "optic_nerve_left"."""

import re

SIDES = {"l": "left", "lt": "left", "left": "left", "r": "right", "rt": "right", "right": "right"}


def organ_key(name: str) -> str:
    """What all spellings of an organ's name have in common.

    Case, blanks, hyphens, underscores and dots do not count; a word for a side may stand in front or behind.

    Args:
        name: as a file, a label map or a preset spells it.

    Returns:
        For example "opticnerve left".
    """
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    words = [word for word in re.split(r"[\W_]+", spaced.casefold()) if word]
    sides = [SIDES[word] for word in words if word in SIDES]
    rest = "".join(word for word in words if word not in SIDES)
    return " ".join([rest, *sides[:1]]) if rest else " ".join(words)
