"""Score predicted organs against reference contours.

Either side is a label map, a folder of label maps, a case's folder of masks (one file per organ), or a folder of such
case folders; several may be given. Cases are matched by name. docs/metrics.md defines every number.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from utils.config.preset import load_preset
from utils.errors import CaseFailure, UserError
from utils.evaluation.evaluate import CasePairs, Evaluation, Settings, evaluate_cases, match_cases
from utils.evaluation.figures import draw_worst, write_box_plots
from utils.evaluation.report import build_report, format_console_report, write_report
from utils.evaluation.tolerances import Tolerances
from utils.io.segmentations import OrganNameResolver, find_cases, require_names
from utils.runtime.command_line import positive_int, report_failures, run_main

logger = logging.getLogger(__name__)


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    paths = {"type": Path, "nargs": "+", "metavar": "PATH"}
    parser.add_argument("--prediction", **paths, required=True, help="what is to be scored")
    parser.add_argument("--reference", **paths, required=True, help="contours to score it against")
    parser.add_argument("--output", type=Path, required=True, help="folder for CSV, JSON and PNG")
    parser.add_argument("--preset", help="organs, names of label values, tolerances, and which organs are small")
    parser.add_argument(
        "--tolerance", nargs="+", default=[], metavar="MM", help="of surface Dice: a number, or ORGAN=number"
    )
    parser.add_argument("--compare", **paths, help="another prediction of the same cases, for paired tests")
    parser.add_argument("--resample", action="store_true", help="carry predictions over to the reference's grid")
    parser.add_argument("--workers", type=positive_int, default=2, help="processes")
    parser.add_argument("--latex", action="store_true", help="also write tables as .tex")
    parser.add_argument("--markdown", action="store_true", help="also write tables as .md")
    parser.add_argument("--overlay", type=Path, metavar="CT_DIR", help="CTs by case name: draw each organ's worst case")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Score all cases, print the table, write the report; a case that fails does not stop the others."""
    arguments = parse_arguments(argv)
    preset = load_preset(arguments.preset) if arguments.preset else None
    tolerances = Tolerances(arguments.tolerance, preset)
    settings = Settings(preset=preset, tolerances=tolerances, resample=arguments.resample)
    check_paths(arguments)
    naming = OrganNameResolver(preset)
    references = find_cases(arguments.reference, naming)
    sides = [find_cases(paths, naming) for paths in (arguments.prediction, arguments.compare) if paths]
    for cases in (references, *sides):
        require_names(cases.values(), naming)
    pairs = [match_cases(cases, references) for cases in sides]

    evaluations, failures = [], {}
    for own, name in zip(pairs, ("prediction", "other prediction"), strict=False):
        evaluations.append(evaluate_cases(own, settings, arguments.workers, name))
        failures |= {
            case_id: CaseFailure(f"has a reference but no {name}") for case_id in references if case_id not in own
        }
        failures |= evaluations[-1].failures
    for case_id in sorted(sides[0].keys() - references.keys()) if len(references) > 1 else ():
        logger.warning("%s: has a prediction but no reference, not scored", case_id)
    if all(evaluation.rows for evaluation in evaluations):
        evaluations = [replace(evaluation, failures=failures) for evaluation in evaluations]
        finish(arguments, settings, evaluations, pairs[0])
    return report_failures(failures, len(references))


def check_paths(arguments: argparse.Namespace) -> None:
    """Find out about useless paths before anything is computed.

    Raises:
        UserError: the output is a file, or the CT folder does not exist.
    """
    if arguments.output.exists() and not arguments.output.is_dir():
        raise UserError(f"{arguments.output}: is a file; --output names a folder")
    if arguments.overlay and not arguments.overlay.is_dir():
        raise UserError(f"{arguments.overlay}: no such folder; --overlay names the folder of the CTs")


def finish(
    arguments: argparse.Namespace, settings: Settings, evaluations: Sequence[Evaluation], pairs: CasePairs
) -> None:
    """Print the table, write report, plots and overlays."""
    own, other = (*evaluations, None)[:2]
    for organ in settings.tolerances.unused(own.organs):
        logger.warning("--tolerance %s: there is no such organ; known are %s", organ, ", ".join(own.organs))
    preset = settings.preset
    small_organs = [preset.organ_names[i] for i in preset.small_organs] if preset else None
    report = build_report(own, other, small_organs, describe_run(arguments, settings, own))
    print(format_console_report(report))
    write_report(arguments.output, report, markdown=arguments.markdown, latex=arguments.latex)
    shown = {"prediction": own.rows} | ({"other prediction": other.rows} if other else {})
    write_box_plots(arguments.output, shown, own.organs)
    if arguments.overlay:
        places = [(worst.case_id, worst.organ) for worst in report.worst]
        failures = draw_worst(arguments.output / "overlays", arguments.overlay, pairs, places, settings)
        for name, reason in failures.items():
            logger.warning("%s: %s", name, reason)
    logger.info("scores of every case, their summary and plots are in %s", arguments.output)


def describe_run(arguments: argparse.Namespace, settings: Settings, evaluation: Evaluation) -> dict[str, Any]:
    """What the report says of its own making."""
    paths = {name: getattr(arguments, name) for name in ("prediction", "reference", "compare")}
    tolerances = {organ: settings.tolerances.of(organ)._asdict() for organ in evaluation.organs}
    return {
        **{name: " ".join(map(str, given)) for name, given in paths.items() if given},
        "preset": settings.preset.name if settings.preset else None,
        "resample": settings.resample,
        "num_cases": len({row.case_id for row in evaluation.rows}),
        "tolerances": tolerances,
    }


if __name__ == "__main__":
    sys.exit(run_main(main))
