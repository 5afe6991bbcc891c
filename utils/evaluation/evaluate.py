"""Scores every organ of every case: pairs the masks, brings them onto one grid and measures them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from utils.config.organ_names import organ_key
from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.evaluation.matching import CasePair
from utils.evaluation.metrics import ScoreRow, Status
from utils.evaluation.surface import score_masks
from utils.evaluation.tolerances import Tolerances
from utils.imaging.masks import Mask, crop_to_common_box, empty_mask, resample_mask
from utils.io.segmentations import OrganNameResolver, Structures, open_structures
from utils.runtime.process_pool import run_cases


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """How cases are scored."""

    preset: Preset | None
    tolerances: Tolerances
    resample: bool
    """Resample predictions that lie on another grid than the reference."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Scores of a case, one row per organ, and the names on either side that are not in the preset."""

    rows: tuple[ScoreRow, ...]
    unmatched_structures: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of all cases."""

    rows: tuple[ScoreRow, ...]
    """Sorted by organ, then case."""
    organs: tuple[str, ...]
    """Names in the order of the table."""
    failures: Mapping[str, CaseFailure]
    """By case id."""
    unmatched_structures: tuple[str, ...]
    """Names that are not in the preset."""


def evaluate_case(pair: CasePair, settings: EvaluationSettings) -> CaseResult:
    """Score all organs of a case.

    Raises:
        UserError: a file cannot be read, or the grids differ and `settings.resample` is false.
    """
    resolver = OrganNameResolver(settings.preset)
    prediction, reference = (open_structures(files, resolver) for files in pair)
    found = {**prediction.names, **reference.names}
    organs = resolver.preset_organs() or found
    score = partial(_score_organ, prediction=prediction, reference=reference, settings=settings)
    return CaseResult(
        rows=tuple(score(key, name, pair.reference.case_id) for key, name in organs.items()),
        unmatched_structures=tuple(sorted(name for key, name in found.items() if key not in organs)),
    )


def evaluate_cases(
    pairs: Mapping[str, CasePair], settings: EvaluationSettings, num_workers: int, description: str | None = None
) -> Evaluation:
    """Score the cases of `match_cases` in worker processes, with a progress bar that `description` labels.

    A case that fails does not stop the others.
    """
    outcome = run_cases(partial(evaluate_case, settings=settings), pairs, num_workers, description)
    return _collect(outcome.results.values(), outcome.failures, settings.preset)


def load_aligned_masks(key: str, prediction: Structures, reference: Structures, *, resample: bool) -> tuple[Mask, Mask]:
    """Read the predicted and the reference mask of an organ that the reference has, on the reference's grid.

    The predicted mask is empty if the prediction does not have the organ.

    Raises:
        UserError: the grids differ and `resample`, which resamples the prediction, is false.
    """
    reference_mask = reference.load(key)
    geometry = reference_mask.geometry
    mask = prediction.load(key) if key in prediction.names else empty_mask(geometry)
    if not resample and not mask.geometry.matches(geometry):
        raise UserError(
            f"{reference.names[key]}: prediction and reference lie on different grids: prediction {mask.geometry}; "
            f"reference {geometry}; give --resample to resample the prediction, or export both on one grid"
        )
    return resample_mask(mask, geometry), reference_mask


def _score_organ(
    key: str, name: str, case_id: str, *, prediction: Structures, reference: Structures, settings: EvaluationSettings
) -> ScoreRow:
    tolerance_mm = settings.tolerances.of(name).value_mm
    row = ScoreRow(case_id=case_id, organ=name, status=Status.NOT_CONTOURED, tolerance_mm=tolerance_mm, scores=None)
    if key not in reference.names:
        return row
    mask, reference_mask = load_aligned_masks(key, prediction, reference, resample=settings.resample)
    is_predicted, is_contoured = mask.voxels.size > 0, reference_mask.voxels.size > 0
    if not is_contoured and not reference.explicit:
        return row
    spacing_zyx_mm = reference_mask.geometry.spacing_zyx_mm
    scores = score_masks(*crop_to_common_box(mask, reference_mask), spacing_zyx_mm, tolerance_mm)
    if key not in prediction.names and settings.preset is None:
        status = Status.NOT_PREDICTED  # `_collect` changes it if another case has a predicted mask of the organ
    elif is_contoured:
        status = Status.SCORED if is_predicted else Status.MISSED
    else:
        status = Status.SPURIOUS if is_predicted else Status.ABSENT
    return replace(row, status=status, scores=scores)


def _collect(results: Iterable[CaseResult], failures: Mapping[str, CaseFailure], preset: Preset | None) -> Evaluation:
    """Unify the spelling of organs, and count organs that are predicted in some case as missed in the others."""
    results = list(results)
    rows = [row for result in results for row in result.rows]
    if preset is None:
        counts = Counter(row.organ for row in rows)
        rarest_first = sorted(sorted(counts, reverse=True), key=counts.get)
        spelling = {organ_key(name): name for name in rarest_first}  # the most frequent one, or the first of equals
        rows = [replace(row, organ=spelling[organ_key(row.organ)]) for row in rows]
        organs = tuple(spelling[key] for key in sorted(spelling))
    else:
        organs = preset.organ_names
    predicted = {row.organ for row in rows if row.scores and row.status is not Status.NOT_PREDICTED}
    for i, row in enumerate(rows):
        if row.status is Status.NOT_PREDICTED and row.organ in predicted:
            rows[i] = replace(row, status=Status.MISSED if row.scores.volume_reference_ml > 0 else Status.ABSENT)
    rows.sort(key=lambda row: (organs.index(row.organ), row.case_id))
    unmatched = {organ_key(name): name for result in results for name in result.unmatched_structures}
    return Evaluation(
        rows=tuple(rows), organs=organs, failures=failures, unmatched_structures=tuple(sorted(unmatched.values()))
    )
