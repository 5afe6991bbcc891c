"""What a person should check before training: organs and CTs that differ from those of the other cases."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from data_preprocess.quality_control.measurements import CaseQuality, OrganQuality, format_ml

MIN_CASES = 8
"""With fewer cases nobody can say what is usual."""
DEVIATIONS = 4.0
MAD_PER_DEVIATION = 0.6745
"""Median absolute deviation of a normal distribution of unit variance."""
LEAST_VOLUME_DEVIATION = np.log(1.1)
"""Volumes vary by a tenth at least, however alike the cases look: four deviations are 46 %."""
LEAST_POSITION_DEVIATION_MM = 3.0
OUTSIDE_SHARE = 0.1
BODY_HU = (-150.0, 200.0)
"""Median of everything denser than air in a CT in HU: fat, muscle and some bone."""
AIR_HU = -700.0
ROUNDS = 10
AXES = ("head", "back", "left"), ("feet", "front", "right")


class Finding(NamedTuple):
    """A reason to look at a case."""

    organ: str | None
    """None if it is about the CT."""
    text: str

    def __str__(self) -> str:
        return f"{self.organ}: {self.text}" if self.organ else self.text


def check_cases(
    qualities: Mapping[str, CaseQuality], left_right_pairs: Sequence[tuple[str, str]]
) -> dict[str, list[Finding]]:
    """Compare every case with the others, and with what must be so in any patient.

    Args:
        qualities: case id to what was measured.
        left_right_pairs: (left, right) organ names.

    Returns:
        Case id to marks; an empty list where there is nothing to see.
    """
    marks = {case_id: _check_alone(quality, left_right_pairs) for case_id, quality in qualities.items()}
    for found in (_check_pieces(qualities), _check_volumes(qualities), _check_positions(qualities)):
        for case_id, mark in found:
            marks[case_id].append(mark)
    return marks


def _check_alone(quality: CaseQuality, left_right_pairs: Sequence[tuple[str, str]]) -> list[Finding]:
    marks = []
    if quality.body_hu is not None and not BODY_HU[0] <= quality.body_hu <= BODY_HU[1]:
        marks.append(Finding(None, f"the CT's values are not HU: the body's median is {quality.body_hu:.0f}"))
    if quality.lowest_hu is not None and quality.lowest_hu > AIR_HU:
        marks.append(Finding(None, f"the CT's values are not HU: the lowest is {quality.lowest_hu:.0f}, air has -1000"))
    for name, organ in quality.organs.items():
        if organ.outside_share > OUTSIDE_SHARE:
            marks.append(Finding(name, f"{organ.outside_share:.0%} of it lies outside the body"))
    for left, right in left_right_pairs:
        sides = [quality.organs.get(name) for name in (left, right)]
        if all(sides) and sides[0].center_mm[2] < sides[1].center_mm[2]:
            marks.append(Finding(left, f"left and right are swapped: it lies to the right of {right}"))
    return marks


def _check_pieces(qualities: Mapping[str, CaseQuality]) -> list[tuple[str, Finding]]:
    """More pieces than usual; some organs are two by nature, such as both arytenoids."""
    marks = []
    for name in _organ_names(qualities):
        of_case = {case_id: q.organs[name].num_pieces for case_id, q in qualities.items() if name in q.organs}
        usual = int(np.median(list(of_case.values()))) if len(of_case) >= MIN_CASES else 1
        for case_id, count in of_case.items():
            if count > usual:
                marks.append((case_id, Finding(name, f"consists of {count} pieces, usual is {usual}")))
    return marks


def _check_volumes(qualities: Mapping[str, CaseQuality]) -> list[tuple[str, Finding]]:
    marks = []
    for name in _organ_names(qualities):
        of_case = {case_id: q.organs[name].volume_ml for case_id, q in qualities.items() if name in q.organs}
        if len(of_case) < MIN_CASES:
            continue
        logs = np.log(list(of_case.values()))
        usual = np.median(logs)
        deviations = (logs - usual) / max(_deviation(logs), LEAST_VOLUME_DEVIATION)
        for (case_id, volume), deviation in zip(of_case.items(), deviations, strict=True):
            if abs(deviation) > DEVIATIONS:
                text = f"{format_ml(volume)} ml, usual are {format_ml(np.exp(usual))} ml ({deviation:+.1f} deviations)"
                marks.append((case_id, Finding(name, text)))
    return marks


def _check_positions(qualities: Mapping[str, CaseQuality]) -> list[tuple[str, Finding]]:
    """Organs that lie elsewhere among the others than usual; a case with a single organ says nothing about it."""
    names, case_ids = _organ_names(qualities), list(qualities)
    if len(case_ids) < MIN_CASES or not names:
        return []
    centers = np.full((len(case_ids), len(names), 3), np.nan)
    for i, case_id in enumerate(case_ids):
        for j, name in enumerate(names):
            organ: OrganQuality | None = qualities[case_id].organs.get(name)
            centers[i, j] = np.nan if organ is None else organ.center_mm
    offsets = _offsets_from_usual(centers)
    marks = []
    for j, name in enumerate(names):
        drawn = np.flatnonzero(np.isfinite(offsets[:, j, 0]))
        if len(drawn) < MIN_CASES:
            continue
        spread = [max(_deviation(offsets[drawn, j, axis]), LEAST_POSITION_DEVIATION_MM) for axis in range(3)]
        for i in drawn:
            deviations = offsets[i, j] / spread
            axis = int(np.abs(deviations).argmax())
            if abs(deviations[axis]) > DEVIATIONS:
                towards = AXES[0 if offsets[i, j, axis] > 0 else 1][axis]
                text = f"lies {abs(offsets[i, j, axis]):.0f} mm too far towards {towards} among the other organs"
                marks.append((case_ids[i], Finding(name, f"{text} ({abs(deviations[axis]):.1f} deviations)")))
    return marks


def _offsets_from_usual(centers: np.ndarray) -> np.ndarray:
    """(cases, organs, 3) mm: how far each organ is from where it usually lies, once the patients are aligned.

    Patients are moved, not turned, so that their organs fit the usual places by the median.
    """
    known = np.isfinite(centers[..., 0])
    usable = np.where(known.any(axis=1)[:, None, None], centers, 0)  # a case without organs has no place
    shift = np.nanmedian(usable, axis=1, keepdims=True)
    for _ in range(ROUNDS):
        usual = np.nanmedian(centers - shift, axis=0, keepdims=True)
        shift = np.nanmedian(np.where(known.any(axis=1)[:, None, None], centers - usual, 0), axis=1, keepdims=True)
    return centers - usual - shift


def _deviation(values: np.ndarray) -> float:
    """Robust standard deviation."""
    return float(np.median(np.abs(values - np.median(values))) / MAD_PER_DEVIATION)


def _organ_names(qualities: Mapping[str, CaseQuality]) -> list[str]:
    return list(dict.fromkeys(name for quality in qualities.values() for name in quality.organs))
