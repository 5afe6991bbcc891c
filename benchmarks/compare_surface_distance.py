"""Compare every score with direct calls of the surface-distance package, and print the largest differences.

    python benchmarks/compare_surface_distance.py --prediction PATH [PATH ...] --reference PATH [PATH ...]

The paths hold cases as folders of masks, as for evaluate.py. The direct calls get whole masks as they come from the
files; evaluate.py's way reads, crops and joins them first. Pairs with an empty mask are listed with what they score:
under NumPy 2 the package fails on them.
"""

import argparse
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import surface_distance
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.evaluation.evaluate import EvaluationSettings, evaluate_case, match_cases  # noqa: E402
from utils.evaluation.tolerances import Tolerances  # noqa: E402
from utils.io.segmentations import CaseFiles, OrganNameResolver, find_cases, open_structures  # noqa: E402
from utils.io.volumes import read_volume  # noqa: E402
from utils.runtime.command_line import run_main  # noqa: E402

LARGEST_ALLOWED = 1e-6
SETTINGS = EvaluationSettings(preset=None, tolerances=Tolerances([], None), resample=False)


class Comparison(NamedTuple):
    """One case: per organ and metric our value and the package's, and how long either took."""

    case_id: str
    values: list[tuple[str, str, float, float]]
    empty: list[str]
    seconds: float
    direct_seconds: float


def call_directly(prediction: Path, reference: Path, tolerance_mm: float) -> dict[str, float] | None:
    """The metrics of two mask files by the package alone; None if a mask is empty."""
    volumes = [read_volume(path) for path in (reference, prediction)]
    true, predicted = (volume.array > 0 for volume in volumes)
    if not true.any() or not predicted.any():
        return None
    distances = surface_distance.compute_surface_distances(true, predicted, volumes[0].geometry.spacing_zyx_mm)
    average = surface_distance.compute_average_surface_distance(distances)
    return {
        "dice": surface_distance.compute_dice_coefficient(true, predicted),
        "hd95_mm": surface_distance.compute_robust_hausdorff(distances, 95),
        "hd_mm": surface_distance.compute_robust_hausdorff(distances, 100),
        "assd_mm": sum(average) / 2,
        "surface_dice": surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm),
        "mean_distance_to_prediction_mm": average[0],
        "mean_distance_to_reference_mm": average[1],
    }


def compare_case(prediction: CaseFiles, reference: CaseFiles) -> Comparison:
    """Score a case both ways."""
    warnings.simplefilter("ignore", DeprecationWarning)
    started = time.perf_counter()
    rows = evaluate_case(prediction, reference, SETTINGS).rows
    seconds = time.perf_counter() - started
    naming = OrganNameResolver(None)
    names = [open_structures(files, naming).names for files in (prediction, reference)]
    values, empty = [], []
    started = time.perf_counter()
    for row in rows:
        files = [f.masks[own[naming.key(row.organ)]] for f, own in zip((prediction, reference), names, strict=True)]
        direct = call_directly(*files, row.tolerance_mm)
        if direct is None:
            scored = f"Dice {row.scores.dice:g}, HD95 {row.scores.hd95_mm:g}, surface Dice {row.scores.surface_dice:g}"
            empty.append(f"{reference.case_id} {row.organ}: {row.status}, {scored}")
        else:
            values += [(row.organ, key, getattr(row.scores, key), float(value)) for key, value in direct.items()]
    return Comparison(reference.case_id, values, empty, seconds, time.perf_counter() - started)


def main(argv: list[str] | None = None) -> int:
    """Compare all cases; the exit status is 1 if any difference exceeds the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prediction", type=Path, nargs="+", required=True)
    parser.add_argument("--reference", type=Path, nargs="+", required=True)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    naming = OrganNameResolver(None)
    pairs = match_cases(find_cases(arguments.prediction, naming), find_cases(arguments.reference, naming))
    with ProcessPoolExecutor(arguments.workers) as pool:
        results = pool.map(compare_case, *zip(*pairs.values(), strict=True))
        cases = list(tqdm(results, total=len(pairs), unit="case", disable=None))

    differences: dict[str, list[tuple[float, str, str]]] = {}
    for case in cases:
        for organ, key, own, direct in case.values:
            differences.setdefault(key, []).append((abs(own - direct), case.case_id, organ))
    print(f"{len(cases)} cases, {len(differences['dice'])} pairs of masks\n")
    print(f"{'metric':<32}{'largest difference':>20}  in")
    for key, found in differences.items():
        largest, case_id, organ = max(found)
        print(f"{key:<32}{largest:>20.3g}  {case_id} {organ}")
    print("\nEmpty masks:", *(line for case in cases for line in case.empty), sep="\n  ")
    seconds = [sum(times) / len(cases) for times in zip(*((c.seconds, c.direct_seconds) for c in cases), strict=True)]
    print(f"\nSeconds per case in one process: {seconds[0]:.2f} evaluated, {seconds[1]:.2f} by direct calls")
    return int(max(max(found) for found in differences.values())[0] > LARGEST_ALLOWED)


if __name__ == "__main__":
    sys.exit(run_main(main))
