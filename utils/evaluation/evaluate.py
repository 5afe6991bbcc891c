"""Scores of every organ of every case: which masks belong together, on which grid, and what they have to say."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from utils.config.organ_names import organ_key
from utils.config.preset import Preset
from utils.errors import CaseFailure, UserError
from utils.evaluation.metrics import ScoreRow, Status
from utils.evaluation.surface import compare_masks
from utils.evaluation.tolerances import Tolerances
from utils.imaging.masks import Mask, crop_to_common_box, empty_mask, resample_mask
from utils.io.segmentations import CaseFiles, OrganNameResolver, Structures, open_structures
from utils.runtime.process_pool import run_cases

CasePairs = Mapping[str, tuple[CaseFiles, CaseFiles]]
"""Case id to (prediction, reference)."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How cases are compared."""

    preset: Preset | None
    tolerances: Tolerances
    resample: bool
    """Carry predictions over to the reference's grid where it is another one."""


@dataclass(frozen=True, kw_only=True)
class CaseResult:
    """Scores of a case.

    Attributes:
        rows: one per organ.
        ignored: structures of either side that the preset does not know.
    """

    case_id: str
    rows: tuple[ScoreRow, ...]
    ignored: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Scores of all cases.

    Attributes:
        rows: sorted by organ, then case.
        organs: names in the table's order.
        failures: by case id.
        ignored: structures that the preset does not know.
    """

    rows: tuple[ScoreRow, ...]
    organs: tuple[str, ...]
    failures: Mapping[str, CaseFailure]
    ignored: tuple[str, ...]


def match_cases(predictions: Mapping[str, CaseFiles], references: Mapping[str, CaseFiles]) -> CasePairs:
    """Pair cases by name; a single case on either side is paired whatever it is called.

    Returns:
        Case id of the reference to (prediction, reference).

    Raises:
        UserError: no case occurs on both sides.
    """
    if len(predictions) == len(references) == 1:
        return {case_id: (next(iter(predictions.values())), case) for case_id, case in references.items()}
    pairs = {case_id: (predictions[case_id], case) for case_id, case in references.items() if case_id in predictions}
    if not pairs:
        raise UserError(
            f"no case occurs on both sides: predictions are {_some(predictions)}, references are {_some(references)}; "
            "name files or folders alike"
        )
    return pairs


def evaluate_case(prediction_files: CaseFiles, reference_files: CaseFiles, settings: Settings) -> CaseResult:
    """Compare all organs of a case.

    Raises:
        UserError: an unreadable file, or different grids without `resample`.
    """
    naming = OrganNameResolver(settings.preset)
    prediction = open_structures(prediction_files, naming)
    reference = open_structures(reference_files, naming)
    both = {**prediction.names, **reference.names}
    organs = naming.preset_organs() or both
    compare = partial(_compare_organ, prediction=prediction, reference=reference, settings=settings)
    rows = [compare(key, name, reference_files.case_id) for key, name in organs.items()]
    ignored = tuple(sorted(name for key, name in both.items() if key not in organs))
    return CaseResult(case_id=reference_files.case_id, rows=tuple(rows), ignored=ignored)


def evaluate_cases(pairs: CasePairs, settings: Settings, num_workers: int, description: str) -> Evaluation:
    """Compare all cases in worker processes, with progress; one failing case does not stop the others.

    Args:
        pairs: of `match_cases`.
        settings: the same for all.
        num_workers: processes; 1 works in this one.
        description: shown beside the progress.
    """
    outcome = run_cases(partial(_evaluate_pair, settings=settings), pairs, num_workers, description)
    return _collect(outcome.results.values(), outcome.failures, settings.preset)


def _evaluate_pair(pair: tuple[CaseFiles, CaseFiles], settings: Settings) -> CaseResult:
    return evaluate_case(*pair, settings)


def aligned_masks(key: str, prediction: Structures, reference: Structures, *, resample: bool) -> tuple[Mask, Mask]:
    """Read an organ's masks and bring the prediction onto the reference's grid.

    Args:
        key: of the organ.
        prediction: an organ that it does not name is an empty mask.
        reference: names the organ.
        resample: allow different grids.

    Returns:
        (prediction, reference), on one grid.

    Raises:
        UserError: the grids differ and may not.
    """
    truth = reference.load(key)
    mask = prediction.load(key) if key in prediction.names else empty_mask(truth.geometry)
    if mask.geometry.matches(truth.geometry):
        return mask, truth
    if resample:
        return resample_mask(mask, truth.geometry), truth
    raise UserError(
        f"{reference.names[key]}: prediction and reference lie on different grids: prediction {mask.geometry}; "
        f"reference {truth.geometry}; give --resample to carry the prediction over, or export both on one grid"
    )


def _compare_organ(
    key: str, name: str, case_id: str, *, prediction: Structures, reference: Structures, settings: Settings
) -> ScoreRow:
    tolerance_mm = settings.tolerances.of(name).value_mm
    row = ScoreRow(case_id=case_id, organ=name, status=Status.NOT_CONTOURED, tolerance_mm=tolerance_mm, scores=None)
    if key not in reference.names:
        return row
    mask, truth = aligned_masks(key, prediction, reference, resample=settings.resample)
    if not truth.voxels.size and not reference.explicit:
        return row
    scores = compare_masks(*crop_to_common_box(mask, truth), truth.geometry.spacing_zyx_mm, tolerance_mm)
    if truth.voxels.size:
        status = Status.SCORED if mask.voxels.size else Status.MISSED
    else:
        status = Status.SPURIOUS if mask.voxels.size else Status.ABSENT
    if key not in prediction.names and settings.preset is None:
        status = Status.NOT_PREDICTED  # until another case shows that the method does predict it
    return replace(row, status=status, scores=scores)


def _collect(results: Iterable[CaseResult], failures: Mapping[str, CaseFailure], preset: Preset | None) -> Evaluation:
    """Spell every organ one way, and count organs that the prediction names in some case as missed in the others."""
    rows = [row for result in results for row in result.rows]
    if preset is None:
        spellings: dict[str, Counter] = {}
        for row in rows:
            spellings.setdefault(organ_key(row.organ), Counter())[row.organ] += 1
        chosen = {key: min(count, key=lambda name: (-count[name], name)) for key, count in spellings.items()}
        rows = [replace(row, organ=chosen[organ_key(row.organ)]) for row in rows]
        organs = tuple(chosen[key] for key in sorted(chosen))
    else:
        organs = preset.organ_names
    predicted = {row.organ for row in rows if row.scores and row.status is not Status.NOT_PREDICTED}
    rows = [_settled(row) if row.organ in predicted else row for row in rows]
    rows.sort(key=lambda row: (organs.index(row.organ), row.case_id))
    ignored = {organ_key(name): name for result in results for name in result.ignored}
    return Evaluation(rows=tuple(rows), organs=organs, failures=failures, ignored=tuple(sorted(ignored.values())))


def _settled(row: ScoreRow) -> ScoreRow:
    if row.status is not Status.NOT_PREDICTED:
        return row
    return replace(row, status=Status.MISSED if row.scores.volume_reference_ml > 0 else Status.ABSENT)


def _some(names: Sequence[str] | Mapping[str, object], limit: int = 3) -> str:
    shown = ", ".join(list(names)[:limit])
    return f"{shown}, ... ({len(names)} in all)" if len(names) > limit else shown
