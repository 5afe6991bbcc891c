"""utils/reporting/output_files.py: files of a case that appear complete or not at all, and the summary of a cohort."""

import csv

import numpy as np
import pytest

from utils.errors import CaseFailure
from utils.imaging.geometry import Geometry
from utils.io.files import write_json
from utils.io.volumes import Volume, read_volume
from utils.reporting.output_files import OutputFiles, load_if_up_to_date, write_summary

RUN = {"ct": "in/pt.nii.gz", "settings": {"overlap": 0.25, "checkpoint_sha256": "ab"}}


@pytest.fixture
def files(tmp_path):
    return OutputFiles(folder=tmp_path, case_id="pt", format="nii.gz")


def test_a_case_is_up_to_date_only_with_the_same_ct_and_settings(files):
    assert load_if_up_to_date(files, RUN) is None
    write_json(files.report, {**RUN, "organs": {}})
    assert load_if_up_to_date(files, RUN) is None  # the label map is missing
    files.label.write_bytes(b"")
    assert load_if_up_to_date(files, RUN) == {**RUN, "organs": {}}
    assert load_if_up_to_date(files, {**RUN, "ct": "elsewhere/pt.nii.gz"}) is None
    assert load_if_up_to_date(files, {**RUN, "settings": {**RUN["settings"], "overlap": 0.5}}) is None
    files.report.write_text("{ half")
    assert load_if_up_to_date(files, RUN) is None


def test_temp_files_of_a_killed_run_are_removed_and_those_of_other_cases_are_not(files, tmp_path):
    for name in ("pt.json", ".pt.nii.gz.77.partial.nii.gz", ".pt.json.77.partial", ".pt.png.5.partial.png"):
        (tmp_path / name).write_text("")
    kept = {"pt_2.json", ".pt_2.nii.gz.77.partial.nii.gz", "pt.nii.gz"}
    for name in kept:
        (tmp_path / name).write_text("")
    files.remove_temp_files()
    assert {path.name for path in tmp_path.iterdir()} == kept


def test_masks_are_one_file_per_organ(files, tiny_preset):
    label = np.zeros((4, 5, 6), dtype=np.uint8)
    label[1, 2, 3] = 3
    geometry = Geometry(size_zyx=(4, 5, 6), spacing_zyx_mm=(3.0, 2.0, 1.0), origin_xyz_mm=(1.0, 2.0, 3.0))
    files.write_masks(Volume(array=label, geometry=geometry), tiny_preset)
    assert {path.name for path in files.masks.iterdir()} == {f"{name}.nii.gz" for name in tiny_preset.organ_names}
    mandible = read_volume(files.masks / "mandible.nii.gz")
    np.testing.assert_array_equal(mandible.array, label == 3)
    assert mandible.geometry.matches(geometry)
    assert not read_volume(files.masks / "chiasm.nii.gz").array.any()


def test_half_written_masks_never_get_their_final_name(files, tiny_preset):
    geometry = Geometry(size_zyx=(1, 1, 1), spacing_zyx_mm=(1.0, 1.0, 1.0))

    def break_off():
        yield np.zeros((1, 1, 1), dtype=np.float32)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        files.write_probabilities(break_off(), geometry, tiny_preset)
    assert list(files.folder.iterdir()) == []


def test_the_summary_has_a_row_per_organ_and_one_per_failure(tmp_path, tiny_preset):
    organ = {"num_voxels": 5, "volume_ml": 0.25, "components": 2, "center_xyz_mm": [1.5, -2.0, 3.0], "peak": 0.75}
    missing = {"num_voxels": 0, "volume_ml": 0.0, "components": 0, "flags": ["not found"]}
    organs = dict.fromkeys(tiny_preset.organ_names, missing)
    organs["chiasm"] = {**organ, "flags": ["low confidence", "implausible shape"]}
    write_summary(
        tmp_path / "summary.csv", {"b": {"organs": organs}}, {"a": CaseFailure("is truncated, really")}, tiny_preset
    )
    rows = list(csv.DictReader((tmp_path / "summary.csv").open()))
    assert [(row["case"], row["organ"]) for row in rows] == [("a", ""), *(("b", n) for n in tiny_preset.organ_names)]
    assert rows[0]["flags"] == "failed: is truncated, really"
    chiasm = rows[1 + tiny_preset.organ_names.index("chiasm")]
    assert (chiasm["num_voxels"], chiasm["components"], chiasm["x_mm"], chiasm["y_mm"]) == ("5", "2", "1.5", "-2")
    assert (chiasm["peak"], chiasm["plausibility"]) == ("0.75", "")
    assert chiasm["flags"] == "low confidence; implausible shape"
