"""Compare every score with direct calls of the surface-distance package, and print the largest differences.

    python -m benchmarks.compare_surface_distance --prediction PATH [PATH ...] --reference PATH [PATH ...]

The paths are folders of masks, as for evaluate.py. evaluate.py crops both masks to their common bounding box, and the
direct calls get the whole masks. Pairs with an empty mask are listed with their scores, because the package fails on
them under NumPy 2.
"""

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.baseline import score_masks
from utils.evaluation.evaluate import EvaluationSettings, evaluate_case
from utils.evaluation.matching import CasePair, match_cases
from utils.evaluation.tolerances import Tolerances
from utils.io.segmentations import OrganNameResolver, find_cases, open_structures
from utils.io.volumes import read_volume
from utils.runtime.command_line import positive_int, report_failures, run_main
from utils.runtime.process_pool import run_cases

MAX_DIFFERENCE = 1e-6
SETTINGS = EvaluationSettings(preset=None, tolerances=Tolerances([], None), resample=False)


class Comparison(NamedTuple):
    """One case: (organ, metric, our value, the package's value), pairs with an empty mask, and run times."""

    values: list[tuple[str, str, float, float]]
    empty: list[str]
    seconds: float
    direct_seconds: float


def compare_case(pair: CasePair) -> Comparison:
    """Score a case with evaluate.py's functions and with the package."""
    warnings.simplefilter("ignore", DeprecationWarning)
    started = time.perf_counter()
    rows = evaluate_case(pair, SETTINGS).rows
    seconds = time.perf_counter() - started
    resolver = OrganNameResolver(None)
    names = [open_structures(files, resolver).names for files in pair]
    values, empty = [], []
    started = time.perf_counter()
    for row in rows:
        files = [f.masks[own[resolver.key(row.organ)]] for f, own in zip(pair, names, strict=True)]
        prediction, reference = (read_volume(path) for path in files)
        masks = reference.array > 0, prediction.array > 0
        if all(mask.any() for mask in masks):
            direct = score_masks(*masks, reference.geometry.spacing_zyx_mm, row.tolerance_mm)
            values += [(row.organ, key, getattr(row.scores, key), float(value)) for key, value in direct.items()]
        else:
            scores = f"Dice {row.scores.dice:g}, HD95 {row.scores.hd95_mm:g}, surface Dice {row.scores.surface_dice:g}"
            empty.append(f"{row.case_id} {row.organ}: {row.status}, {scores}")
    return Comparison(values, empty, seconds, time.perf_counter() - started)


def main(argv: list[str] | None = None) -> int:
    """Compare all cases; the exit status is 1 if a difference exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prediction", type=Path, nargs="+", required=True)
    parser.add_argument("--reference", type=Path, nargs="+", required=True)
    parser.add_argument("--workers", type=positive_int, default=2)
    arguments = parser.parse_args(argv)
    resolver = OrganNameResolver(None)
    pairs = match_cases(find_cases(arguments.prediction, resolver), find_cases(arguments.reference, resolver))
    outcome = run_cases(compare_case, pairs, arguments.workers)
    cases = outcome.results
    if outcome.failures:
        return report_failures(outcome.failures, len(pairs))

    differences: dict[str, list[tuple[float, str, str]]] = {}
    for case_id, case in cases.items():
        for organ, key, own, direct in case.values:
            differences.setdefault(key, []).append((abs(own - direct), case_id, organ))
    print(f"{len(cases)} cases, {len(differences['dice'])} pairs of masks\n")
    print(f"{'metric':<32}{'largest difference':>20}  in")
    for key, found in differences.items():
        largest, case_id, organ = max(found)
        print(f"{key:<32}{largest:>20.3g}  {case_id} {organ}")
    print("\nEmpty masks:", *(line for case in cases.values() for line in case.empty), sep="\n  ")
    seconds, direct_seconds = np.mean([(case.seconds, case.direct_seconds) for case in cases.values()], axis=0)
    print(f"\nSeconds per case in one process: {seconds:.2f} with evaluate.py, {direct_seconds:.2f} with direct calls")
    return int(max(max(found) for found in differences.values())[0] > MAX_DIFFERENCE)


if __name__ == "__main__":
    sys.exit(run_main(main))
