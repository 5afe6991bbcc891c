"""Finds organs that differ from those of the other cases: a person should check them before training."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_preprocess.quality_control.measurements import CaseQuality, format_ml
from utils.config.organ_volumes import known_volume
from utils.imaging.arrangement import robust_deviation

MIN_CASES = 8
"""Fewer cases are not compared with each other."""
MAX_DEVIATIONS = 4.0
"""Robust standard deviations from the median beyond which a value is an outlier."""
MIN_VOLUME_DEVIATION = np.log(1.1)
"""Lower bound of the standard deviation of log volumes: four deviations are 46 % at least."""
MIN_POSITION_DEVIATION_MM = 3.0
MAX_FRACTION_OUTSIDE = 0.1
NUM_ITERATIONS = 10
DIRECTIONS = ("superior", "posterior", "left"), ("inferior", "anterior", "right")
"""Of growing and of falling z, y and x."""


class Finding(NamedTuple):
    """A reason to look at a case."""

    organ: str
    text: str

    def __str__(self) -> str:
        return f"{self.organ}: {self.text}"


def check_cases(
    qualities: Mapping[str, CaseQuality], left_right_pairs: Sequence[tuple[str, str]]
) -> dict[str, list[Finding]]:
    """Findings by case id: a case differs from the others, or from every patient; a usual case has an empty list."""
    findings = {case_id: list(_check_alone(quality, left_right_pairs)) for case_id, quality in qualities.items()}
    for check in (_check_components, _check_volumes, _check_positions):
        for case_id, finding in check(qualities):
            findings[case_id].append(finding)
    return findings


def _check_alone(quality: CaseQuality, left_right_pairs: Sequence[tuple[str, str]]) -> Iterator[Finding]:
    for name, organ in quality.organs.items():
        if organ.fraction_outside > MAX_FRACTION_OUTSIDE:
            yield Finding(name, f"{organ.fraction_outside:.0%} of it lies outside the body")
        known = known_volume(name)
        if known is not None and organ.volume_ml not in known:
            low, high = map(format_ml, known)
            yield Finding(name, f"volume {format_ml(organ.volume_ml)} ml, known volumes {low} to {high} ml")
    for left, right in left_right_pairs:
        sides = [quality.organs.get(name) for name in (left, right)]
        if all(sides) and sides[0].center_mm[2] < sides[1].center_mm[2]:
            yield Finding(left, f"left and right are swapped: it lies to the right of {right}")


def not_compared(qualities: Mapping[str, CaseQuality], organs: Sequence[str]) -> list[str]:
    """Sentences on what `check_cases` could not compare: organs of few cases, and organs without known volumes."""
    contoured = [name for name in organs if any(name in quality.organs for quality in qualities.values())]
    few = [name for name in contoured if sum(name in quality.organs for quality in qualities.values()) < MIN_CASES]
    unknown = [name for name in contoured if known_volume(name) is None]
    sentences = {
        f"volume and position not compared between cases, because fewer than {MIN_CASES} have the organ": few,
        "volume not compared with known volumes, because there are none": unknown,
    }
    return [
        f"{sentence}: {'all organs' if names == contoured else ', '.join(names)}"
        for sentence, names in sentences.items()
        if names
    ]


def _check_components(qualities: Mapping[str, CaseQuality]) -> Iterator[tuple[str, Finding]]:
    """More connected components than usual; some organs have two, such as the arytenoids."""
    for name, counts in _by_organ(qualities, "num_components").items():
        usual = int(np.median(list(counts.values()))) if len(counts) >= MIN_CASES else 1
        for case_id, count in counts.items():
            if count > usual:
                yield case_id, Finding(name, f"{count} connected components, usual: {usual}")


def _check_volumes(qualities: Mapping[str, CaseQuality]) -> Iterator[tuple[str, Finding]]:
    for name, volumes in _by_organ(qualities, "volume_ml").items():
        if len(volumes) < MIN_CASES:
            continue
        logs = np.log(list(volumes.values()))
        median = np.median(logs)
        deviations = (logs - median) / max(robust_deviation(logs), MIN_VOLUME_DEVIATION)
        for (case_id, volume), deviation in zip(volumes.items(), deviations, strict=True):
            if abs(deviation) > MAX_DEVIATIONS:
                text = f"volume {format_ml(volume)} ml, median {format_ml(np.exp(median))} ml"
                yield case_id, Finding(name, f"{text} ({deviation:+.1f} standard deviations)")


def _check_positions(qualities: Mapping[str, CaseQuality]) -> Iterator[tuple[str, Finding]]:
    """Organs whose position relative to the other organs is unusual; a case with one organ has no such position."""
    centers_of = _by_organ(qualities, "center_mm")
    case_ids = list(qualities)
    if len(case_ids) < MIN_CASES or not centers_of:
        return
    unknown = (np.nan, np.nan, np.nan)
    centers = [[of_case.get(case_id, unknown) for of_case in centers_of.values()] for case_id in case_ids]
    offsets = _offsets_from_usual(np.array(centers))
    for name, of_organ in zip(centers_of, offsets.swapaxes(0, 1), strict=True):
        contoured = np.flatnonzero(np.isfinite(of_organ[:, 0]))
        if len(contoured) < MIN_CASES:
            continue
        spread = np.maximum(robust_deviation(of_organ[contoured]), MIN_POSITION_DEVIATION_MM)
        for i in contoured:
            deviations = np.abs(of_organ[i]) / spread
            axis = int(deviations.argmax())
            if deviations[axis] > MAX_DEVIATIONS:
                direction = DIRECTIONS[0 if of_organ[i, axis] > 0 else 1][axis]
                text = f"lies {abs(of_organ[i, axis]):.0f} mm too far {direction} relative to the other organs"
                yield case_ids[i], Finding(name, f"{text} ({deviations[axis]:.1f} standard deviations)")


def _offsets_from_usual(centers: np.ndarray) -> np.ndarray:
    """How far each organ lies from its usual position after the patients were aligned by translation.

    Args:
        centers: (cases, organs, 3) mm, NaN where not contoured.

    Returns:
        (cases, organs, 3) mm. Each patient's translation is the median over its organs.
    """
    has_organs = np.isfinite(centers[..., 0]).any(axis=1)[:, None, None]
    shift = np.nanmedian(np.where(has_organs, centers, 0), axis=1, keepdims=True)
    for _ in range(NUM_ITERATIONS):
        usual = np.nanmedian(centers - shift, axis=0, keepdims=True)
        shift = np.nanmedian(np.where(has_organs, centers - usual, 0), axis=1, keepdims=True)
    return centers - usual - shift


def _by_organ(qualities: Mapping[str, CaseQuality], measurement: str) -> dict:
    """Organ to case id to a measurement, organs in order of their first case."""
    names = dict.fromkeys(name for quality in qualities.values() for name in quality.organs)
    return {
        name: {case_id: getattr(q.organs[name], measurement) for case_id, q in qualities.items() if name in q.organs}
        for name in names
    }
