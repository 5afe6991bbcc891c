"""Which files belong to one case: the prediction, the reference and the CT, by their names."""

import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from utils.errors import UserError, shorten
from utils.io.segmentations import CaseFiles, case_volumes

ENDINGS = re.compile(r"(?:_masks|_0000)+$")
"""Of `inference.py --masks`, and of nnU-Net's images."""

logger = logging.getLogger(__name__)


class CasePair(NamedTuple):
    """The files of a case on both sides."""

    prediction: CaseFiles
    reference: CaseFiles


def match_cases(predictions: Mapping[str, CaseFiles], references: Mapping[str, CaseFiles]) -> dict[str, CasePair]:
    """Pair cases by the rule of `match_names`.

    Returns:
        Pairs by the reference's case id, in the order of the references.

    Raises:
        UserError: no case occurs on both sides, or several cases of one side fit the same case of the other.
    """
    partners = match_names(predictions, references, ("predictions", "references"))
    pairs = {name: CasePair(predictions[partners[name]], case) for name, case in references.items() if name in partners}
    if not pairs:
        raise UserError(
            f"no case occurs on both sides: predictions are {shorten(predictions)}, references are "
            f"{shorten(references)}; give the files or folders of a case the same name"
        )
    if renamed := [f"{partners[name]} with {name}" for name in pairs if partners[name] != name]:
        logger.info("compared under different names: %s", shorten(renamed))
    return pairs


def find_cts(folder: Path, pairs: Mapping[str, CasePair]) -> dict[str, Path]:
    """Find the CTs of cases by the rule of `match_names`: by the name of the reference, else of the prediction.

    Args:
        folder: holds the CTs as `case_volumes` describes.
        pairs: of `match_cases`.

    Returns:
        CT by case id; a case without a CT is left out.

    Raises:
        UserError: several CTs fit one case, or one CT several cases.
    """
    volumes = case_volumes(folder)
    predictions = {pair.prediction.case_id: case_id for case_id, pair in pairs.items()}
    by_prediction = match_names(volumes, predictions, ("CTs", "predictions"))
    by_reference = match_names(volumes, pairs, ("CTs", "references"))
    found = {predictions[name]: volumes[ct] for name, ct in by_prediction.items()}
    return found | {case_id: volumes[ct] for case_id, ct in by_reference.items()}


def missing_ct(folder: Path, case_id: str) -> str:
    """The message for a case that is not among `find_cts`."""
    return f"{folder}: has no CT of {case_id}; expected {case_id}.nii.gz (or another format); add it"


def match_names(
    names: Collection[str], others: Collection[str], sides: tuple[str, str] = ("names", "others")
) -> dict[str, str]:
    """Find partners: equal names first, then names that are equal without `ENDINGS`.

    If both sides have a single name, these two are partners whatever they are.

    Returns:
        Name by partner in `others`; what has no partner is left out.

    Raises:
        UserError: several names of one side fit the same name of the other; `sides` says in the message what they are.
    """
    if len(names) == len(others) == 1:
        return dict(zip(others, names, strict=True))
    partners = {name: name for name in others if name in names}
    rest = [_by_stem(name for name in side if name not in partners) for side in (names, others)]
    for stem in rest[0].keys() & rest[1].keys():
        own, other = rest[0][stem], rest[1][stem]
        if len(own) > 1 or len(other) > 1:
            raise UserError(
                f"{sides[0]} {', '.join(own)} and {sides[1]} {', '.join(other)} may all be case {stem}; give both "
                "sides the same names, or keep one of them"
            )
        partners[other[0]] = own[0]
    return partners


def _by_stem(names: Iterable[str]) -> dict[str, list[str]]:
    """Name without `ENDINGS` to the names."""
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(ENDINGS.sub("", name), []).append(name)
    return stems
