"""utils/evaluation/evaluate.py: which masks are compared, and the status of absent organs."""

import numpy as np
import pytest

from utils.config.preset import load_preset
from utils.evaluation.evaluate import EvaluationSettings, evaluate_cases
from utils.evaluation.matching import match_cases
from utils.evaluation.metrics import Status
from utils.evaluation.tolerances import Tolerances
from utils.imaging.geometry import Geometry
from utils.io.segmentations import OrganNameResolver, find_cases
from utils.io.volumes import Volume, write_volume

GRID = Geometry(size_zyx=(6, 8, 10), spacing_zyx_mm=(3.0, 2.0, 1.0))
SHIFTED = Geometry(size_zyx=(6, 8, 10), spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(2.0, 0.0, 0.0))


def write_mask(path, start=None, grid=GRID):
    """A bar of two voxels along x, or nothing."""
    array = np.zeros(grid.size_zyx, dtype=np.uint8)
    if start is not None:
        array[2, 3, start : start + 2] = 1
    write_volume(path, Volume(array=array, geometry=grid))


def evaluate(folder, preset=None, resample=False, num_workers=1):
    preset = load_preset(preset) if preset else None
    settings = EvaluationSettings(preset=preset, tolerances=Tolerances([], preset), resample=resample)
    sides = [find_cases([folder / side], OrganNameResolver(preset)) for side in ("pred", "ref")]
    return evaluate_cases(match_cases(*sides), settings, num_workers, "test")


def statuses(evaluation):
    return {(row.case_id, row.organ): row.status for row in evaluation.rows}


def test_every_kind_of_absence_has_its_status(tmp_path):
    for organ, predicted, contoured in (
        ("Lens-Lt", 2, 3),
        ("Lens-Rt", None, 3),
        ("Brain", 2, None),
        ("Cochlea-Lt", None, None),
    ):
        write_mask(tmp_path / "pred" / "p1" / f"{organ}.nrrd", predicted)
        write_mask(tmp_path / "ref" / "p1" / f"{organ}.nrrd", contoured)
    write_mask(tmp_path / "pred" / "p1" / "Mandible.nrrd", 1)
    write_mask(tmp_path / "ref" / "p1" / "Larynx.nrrd", 1)
    evaluation = evaluate(tmp_path)
    assert statuses(evaluation) == {
        ("p1", "Lens-Lt"): Status.SCORED,
        ("p1", "Lens-Rt"): Status.MISSED,
        ("p1", "Brain"): Status.SPURIOUS,
        ("p1", "Cochlea-Lt"): Status.ABSENT,
        ("p1", "Mandible"): Status.NOT_CONTOURED,
        ("p1", "Larynx"): Status.NOT_PREDICTED,
    }
    lens = next(row.scores for row in evaluation.rows if row.organ == "Lens-Lt")
    assert (lens.dice, lens.hd_mm) == (0.5, 1.0)


def test_an_organ_predicted_in_another_case_is_missed(tmp_path):
    for case_id in ("p1", "p2"):
        write_mask(tmp_path / "ref" / case_id / "Lens_Lt.nrrd", 3)
        write_mask(tmp_path / "ref" / case_id / "Brain.nrrd", 3)
        write_mask(tmp_path / "pred" / case_id / "Brain.nrrd", 3)
    write_mask(tmp_path / "pred" / "p2" / "Lens-Lt.nrrd", 3)
    assert statuses(evaluate(tmp_path))["p1", "Lens_Lt"] is Status.MISSED


def test_with_a_preset_its_organs_are_scored_and_others_listed(tmp_path):
    for side in ("pred", "ref"):
        write_mask(tmp_path / side / "p1" / "Parotid_L.nrrd", 3)
        write_mask(tmp_path / side / "p1" / "Spleen.nrrd", 3)
    write_mask(tmp_path / "ref" / "p1" / "Brain-Stem.nrrd", 3)
    evaluation = evaluate(tmp_path, preset="pddca")
    found = statuses(evaluation)
    assert found["p1", "parotid_left"] is Status.SCORED
    assert found["p1", "brainstem"] is Status.MISSED  # with a preset, each of its organs should be predicted
    assert found["p1", "chiasm"] is Status.NOT_CONTOURED
    assert len(found) == 9
    assert evaluation.unmatched_structures == ("Spleen",)


def test_spellings_become_one_row_in_the_commonest_spelling(tmp_path):
    for case_id, name in (("p1", "Lens_Lt"), ("p2", "Lens-Lt"), ("p3", "Lens-Lt")):
        write_mask(tmp_path / "ref" / case_id / f"{name}.nrrd", 3)
        write_mask(tmp_path / "pred" / case_id / "lens_l.nrrd", 3)
    assert evaluate(tmp_path).organs == ("Lens-Lt",)


def test_directions_that_differ_by_less_than_a_voxels_tenth_are_one_grid(tmp_path):
    """Another program rounds the direction: 0.005 rad move no voxel of this grid by more than 0.07 of its size."""
    rounded = Geometry(
        size_zyx=GRID.size_zyx, spacing_zyx_mm=GRID.spacing_zyx_mm, direction=(1, -5e-3, 0, 5e-3, 1, 0, 0, 0, 1)
    )
    write_mask(tmp_path / "pred" / "p1" / "Brain.nrrd", 2, rounded)
    write_mask(tmp_path / "ref" / "p1" / "Brain.nrrd", 3)
    (row,) = evaluate(tmp_path).rows
    assert (row.scores.dice, row.scores.hd_mm) == (0.5, 1.0)


def test_another_grid_fails_with_both_geometries_unless_resampled(tmp_path):
    write_mask(tmp_path / "ref" / "p1" / "Brain.nrrd", 4)
    write_mask(tmp_path / "pred" / "p1" / "Brain.nrrd", 2, grid=SHIFTED)
    failure = evaluate(tmp_path).failures["p1"]
    assert f"prediction {SHIFTED}; reference {GRID}; give --resample" in failure.reason
    (row,) = evaluate(tmp_path, resample=True).rows
    assert row.scores.dice == 1


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_damaged_case_does_not_stop_the_others(tmp_path, num_workers):
    for case_id in ("p1", "p2"):
        for side in ("pred", "ref"):
            write_mask(tmp_path / side / case_id / "Brain.nrrd", 4)
    (tmp_path / "pred" / "p1" / "Brain.nrrd").write_bytes(b"NRRD0004\n")
    evaluation = evaluate(tmp_path, num_workers=num_workers)
    assert "cannot be read" in evaluation.failures["p1"].reason
    assert evaluation.failures["p1"].reason.endswith("Brain.nrrd")
    assert statuses(evaluation) == {("p2", "Brain"): Status.SCORED}


def test_label_maps_meet_folders_of_masks(tmp_path):
    preset = load_preset("pddca")
    array = np.zeros(GRID.size_zyx, dtype=np.uint8)
    array[2, 3, 4:6] = preset.organ_names.index("parotid_left") + 1
    write_volume(tmp_path / "pred" / "p1.nii.gz", Volume(array=array, geometry=GRID))
    write_mask(tmp_path / "ref" / "p1" / "Parotid-Lt.nrrd", 4)
    scored = [row for row in evaluate(tmp_path, preset="pddca").rows if row.status is Status.SCORED]
    assert [(row.organ, row.scores.dice) for row in scored] == [("parotid_left", 1)]
