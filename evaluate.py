"""Score predicted organ masks against reference contours.

Each side is a label map, a folder of label maps, a case's folder of masks (one file per organ), or a folder of such
case folders. Several paths may be given. Cases are matched by name. With --ratings, ratings of contours by people are
tabulated too, or alone. docs/metrics.md defines every metric.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.config.preset import Preset, load_preset
from utils.errors import CaseFailure, UserError, shorten, shorten_cases
from utils.evaluation.evaluate import Evaluation, EvaluationSettings, evaluate_cases
from utils.evaluation.figures import write_box_plots, write_overlays
from utils.evaluation.matching import CasePair, match_cases
from utils.evaluation.metrics import COUNTED, Status
from utils.evaluation.rating_report import (
    RatingReport,
    rating_table,
    remove_rating_files,
    require_own_rating_files,
    write_rating_report,
)
from utils.evaluation.ratings import Rating, match_organs, match_ratings, read_ratings
from utils.evaluation.report import OVERLAYS, EvaluationReport, format_console_report, require_own_files, write_report
from utils.evaluation.review import FOLDER as REVIEW
from utils.evaluation.review import write_reviews
from utils.evaluation.tolerances import Tolerances
from utils.io.files import check_folder
from utils.io.segmentations import OrganNameResolver, find_cases, require_names
from utils.reporting.review.index import INDEX_NAME, require_own_index
from utils.reporting.tables import to_text
from utils.runtime.command_line import positive_int, report_failures, run_main

logger = logging.getLogger(__name__)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paths = {"type": Path, "nargs": "+", "metavar": "PATH"}
    parser.add_argument("--prediction", **paths, help="masks to score")
    parser.add_argument("--reference", **paths, help="masks to score them against")
    parser.add_argument("--output", type=Path, required=True, help="folder for the tables (CSV, JSON) and plots (PNG)")
    parser.add_argument("--preset", help="data set, whose organs, label values, tolerances and small organs are used")
    parser.add_argument(
        "--tolerance", nargs="+", default=[], metavar="MM", help="tolerance of the surface Dice: MM, or ORGAN=MM"
    )
    parser.add_argument("--compare", **paths, help="another prediction of the same cases, for paired tests")
    parser.add_argument("--resample", action="store_true", help="resample predictions to the grid of the reference")
    parser.add_argument("--workers", type=positive_int, default=2, help="number of processes (default: %(default)s)")
    parser.add_argument("--latex", action="store_true", help="also write the tables as .tex")
    parser.add_argument("--markdown", action="store_true", help="also write the tables as .md")
    parser.add_argument(
        "--overlay", type=Path, metavar="CT_DIR", help="folder of the CTs; also draw each organ's worst cases"
    )
    parser.add_argument(
        "--review",
        type=Path,
        metavar="CT_DIR",
        help="folder of the CTs; also write a page per case to look at and rate",
    )
    parser.add_argument(
        "--ratings", **paths, help="CSV files of ratings, saved by review pages, or folders of them; tabulated by organ"
    )
    arguments = parser.parse_args(argv)
    if not (arguments.prediction and arguments.reference):
        if arguments.prediction or arguments.reference or not arguments.ratings:
            parser.error("--prediction and --reference are required, or --ratings alone")
        if arguments.compare or arguments.overlay or arguments.review:
            parser.error("--compare, --overlay and --review need --prediction and --reference")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Score all cases, write the files and print the table. A case that fails does not stop the others."""
    arguments = parse_arguments(argv)
    preset = load_preset(arguments.preset) if arguments.preset else None
    tolerances = Tolerances(arguments.tolerance, preset)
    settings = EvaluationSettings(preset=preset, tolerances=tolerances, resample=arguments.resample)
    check_paths(arguments)
    resolver = OrganNameResolver(preset)
    ratings = read_ratings(arguments.ratings, resolver) if arguments.ratings else []
    if not arguments.prediction:
        write_ratings(arguments, preset, match_organs(ratings, None, resolver))
        return 0
    references = find_cases(arguments.reference, resolver)
    predictions = {"prediction": find_cases(arguments.prediction, resolver)}
    if arguments.compare:
        predictions["other prediction"] = find_cases(arguments.compare, resolver)
    for cases in predictions.values():
        require_names(cases.values(), references.values(), resolver)
        require_names(references.values(), cases.values(), resolver)
    pairs = {name: match_cases(cases, references) for name, cases in predictions.items()}
    if arguments.review:
        require_own_index(arguments.output / REVIEW / INDEX_NAME, pairs["prediction"])
    ratings = match_ratings(ratings, pairs["prediction"], {**predictions["prediction"], **references}, resolver)

    evaluations, failures = {}, {}
    for name, own_pairs in pairs.items():
        scored = evaluate_cases(own_pairs, settings, arguments.workers, name)
        missing = dict.fromkeys(references.keys() - own_pairs.keys(), CaseFailure(f"has a reference but no {name}"))
        evaluations[name] = replace(scored, failures={**missing, **scored.failures})
        failures |= evaluations[name].failures
        used = {pair.prediction.case_id for pair in own_pairs.values()}
        if unused := predictions[name].keys() - used:
            logger.warning("%s: has a %s but no reference, not scored", shorten_cases(unused), name)
    if all(evaluation.rows for evaluation in evaluations.values()):
        if reason := why_nothing_counts(evaluations["prediction"]):
            report_failures(failures, len(references))
            raise UserError(f"nothing to score: {reason}")
        ratings = match_organs(ratings, evaluations["prediction"].organs, resolver)
        failures = failures | write_results(arguments, settings, evaluations, pairs["prediction"], ratings)
    return report_failures(failures, len(references))


def why_nothing_counts(evaluation: Evaluation) -> str | None:
    """The reason why no organ of any case counts, or None if one does."""
    statuses = {row.status for row in evaluation.rows}
    if not statuses.isdisjoint(COUNTED):
        return None
    if Status.NOT_PREDICTED in statuses:
        return "no contoured organ has a predicted mask; give --preset to count its organs as missed"
    if evaluation.unmatched_structures:
        found = shorten(evaluation.unmatched_structures)
        return f"no organ of the preset is contoured; found {found}; check --preset"
    return "no organ has a voxel in any reference; check --reference"


def check_paths(arguments: argparse.Namespace) -> None:
    """Check the paths before anything is computed.

    Raises:
        UserError: the output cannot be written, or the folder of CTs does not exist.
    """
    check_folder(arguments.output)
    if arguments.prediction:
        folders = {OVERLAYS: arguments.overlay, REVIEW: arguments.review}
        require_own_files(arguments.output, [name for name, ct_folder in folders.items() if ct_folder])
    if arguments.ratings:
        require_own_rating_files(arguments.output, arguments.ratings)
    for option in ("overlay", "review"):
        ct_folder = getattr(arguments, option)
        if ct_folder and not ct_folder.is_dir():
            raise UserError(f"{ct_folder}: no such folder; --{option} expects the folder of the CTs")


def write_results(
    arguments: argparse.Namespace,
    settings: EvaluationSettings,
    evaluations: Mapping[str, Evaluation],
    pairs: Mapping[str, CasePair],
    ratings: Sequence[Rating],
) -> dict[str, CaseFailure]:
    """Write tables and plots, print the tables, draw the overlays and write the pages.

    Returns:
        Bugs in overlays and pages. Cases whose CT cannot be used are logged as warnings only.
    """
    own, other = evaluations["prediction"], evaluations.get("other prediction")
    for organ in settings.tolerances.unused(own.organs):
        logger.warning(
            "--tolerance %s is ignored: there is no such organ; the organs are %s", organ, ", ".join(own.organs)
        )
    preset = settings.preset
    small_organs = preset.small_organ_names if preset else None
    report = EvaluationReport(own, other, small_organs, describe_run(arguments, settings, own))
    write_report(arguments.output, report, markdown=arguments.markdown, latex=arguments.latex)
    scores = {name: evaluation.rows for name, evaluation in evaluations.items()}
    write_box_plots(arguments.output, scores, own.organs)
    print(format_console_report(report))
    if ratings:
        write_ratings(arguments, preset, ratings, own)
    else:
        remove_rating_files(arguments.output)
    logger.info("scores of every case, tables and plots are in %s", arguments.output)
    bugs = {}
    if arguments.overlay:
        folder = arguments.output / OVERLAYS
        failures = write_overlays(folder, arguments.overlay, pairs, report.worst, settings, arguments.workers)
        bugs |= log_failures("overlay", failures)
    if arguments.review:
        folder = arguments.output / REVIEW
        failures = write_reviews(folder, arguments.review, pairs, own, report.low_cases, settings, arguments.workers)
        bugs |= log_failures("page", failures)
        logger.info("pages of the cases are listed in %s", folder / INDEX_NAME)
    return bugs


def log_failures(what: str, failures: Mapping[str, CaseFailure]) -> dict[str, CaseFailure]:
    """Log the cases whose CT cannot be used, and return the bugs by a name for `report_failures`."""
    for case_id, failure in failures.items():
        if not failure.traceback:
            logger.warning("no %s of %s: %s", what, case_id, failure)
    return {f"{what} of {case_id}": failure for case_id, failure in failures.items() if failure.traceback}


def write_ratings(
    arguments: argparse.Namespace,
    preset: Preset | None,
    ratings: Sequence[Rating],
    evaluation: Evaluation | None = None,
) -> None:
    """Write and print the ratings, beside the scores if there are some."""
    organs = evaluation.organs if evaluation else preset and preset.organ_names
    origin = {**describe_paths(arguments), "preset": preset.name if preset else None}
    report = RatingReport(ratings, evaluation.rows if evaluation else (), organs, origin)
    write_rating_report(arguments.output, report, markdown=arguments.markdown, latex=arguments.latex)
    print("\n" * bool(evaluation) + to_text(rating_table(report)))
    logger.info("ratings by organ, and every rating, are in %s", arguments.output)


def describe_paths(arguments: argparse.Namespace) -> dict[str, str]:
    """The paths that were given."""
    paths = {name: getattr(arguments, name) for name in ("prediction", "reference", "compare", "ratings")}
    return {name: " ".join(map(str, given)) for name, given in paths.items() if given}


def describe_run(arguments: argparse.Namespace, settings: EvaluationSettings, evaluation: Evaluation) -> dict[str, Any]:
    """Collect the paths and settings of the evaluation for summary.json."""
    return {
        **describe_paths(arguments),
        "preset": settings.preset.name if settings.preset else None,
        "resample": settings.resample,
        "num_cases": len({row.case_id for row in evaluation.rows}),
        "tolerances": {organ: settings.tolerances.of(organ)._asdict() for organ in evaluation.organs},
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
