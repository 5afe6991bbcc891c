"""pseudo_labels.py, with a model that knows the organs of the tiny cases by their CT numbers."""

import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

import pseudo_labels
from data_preprocess.augment import Batch
from data_preprocess.cases import open_case, read_case_info
from data_preprocess.dataset import CaseFolder
from models.predictor import Prediction
from models.pretrained import Model
from train_backbone import BackboneStage
from train_backbone_heatmap import BackboneHeatmapStage
from utils.imaging.masks import UNKNOWN_LABEL
from utils.io.files import read_json, write_json
from utils.reporting import organ_report
from utils.reporting.overlay import save_png
from utils.runtime.command_line import run_main
from utils.runtime.device import choose_compute

MISSING = "mandible"


class ByIntensity:
    """In the tiny cases organ i has 40 + 60 (i + 1) HU: such voxels are sure, others near them are not."""

    def __init__(self, preset):
        self.preset = preset

    def predict(self, image_hu, inside_fov):
        steps = (image_hu.float() - 40) / 60
        values = torch.arange(self.preset.num_classes)[:, None, None, None]
        nearest = (steps.round() == values).float()
        off = ((steps - steps.round()).abs() > 0.2)[None]  # noise of 10 HU: some voxels are unsure
        probabilities = torch.where(off, 0.4 * nearest, 0.9 * nearest)
        probabilities[0] += 1 - probabilities.sum(dim=0)
        return Prediction(probabilities, probabilities.argmax(0).byte(), probabilities[:0], [])


@pytest.fixture
def cases(case_folder, tmp_path):
    """The tiny cases, without the contour of the mandible in case_0; the CT still shows it."""
    folder = tmp_path / "cases"
    shutil.copytree(case_folder, folder)
    info = read_case_info(folder / "case_0")
    label = np.load(folder / "case_0" / "label.npy")
    label[label == 3] = 0
    np.save(folder / "case_0" / "label.npy", label)
    organs = {name: organ for name, organ in info.organs.items() if name != MISSING}
    write_json(folder / "case_0" / "case.json", asdict(replace(info, organs=organs)))
    for path in folder.glob("case_*"):
        save_png(path / "preview.png", np.zeros((4, 4, 3), dtype=np.uint8))
    return folder


@pytest.fixture(autouse=True)
def model(tiny_preset, monkeypatch):
    monkeypatch.setattr(organ_report, "known_volume", lambda name: None)  # the organs of tiny cases are tiny
    monkeypatch.setattr(
        pseudo_labels, "load_model", lambda *_: Model(ByIntensity(tiny_preset), tiny_preset, None, sha256="1")
    )


def run(cases, output, *options):
    return run_main(pseudo_labels.main, ["--cases", str(cases), "--output", str(output), *options])


def test_missing_organs_are_filled_in_training_cases_only(cases, tmp_path, tiny_preset, caplog):
    output = tmp_path / "filled"
    with caplog.at_level("INFO"):
        assert run(cases, output, "--low", "0.3") == 0
    info = read_case_info(output / "case_0")
    assert MISSING not in info.organs
    assert MISSING in info.pseudo_organs
    case = open_case(output / "case_0", info, tiny_preset.organ_names)
    np.testing.assert_array_equal(case.label, np.load(cases / "case_0" / "label.npy"))
    assert not case.pseudo[case.label > 0].any()
    assert set(np.unique(case.pseudo)) == {0, 3, UNKNOWN_LABEL}
    assert info.pseudo_organs[MISSING].num_voxels == np.count_nonzero(case.pseudo == 3)
    for unchanged in ("case_5", "case_6"):  # validation and test
        assert read_case_info(output / unchanged).pseudo_organs == {}
        assert not (output / unchanged / "pseudo.npy").exists()
    train = CaseFolder(output, "train", tiny_preset.organ_names)
    assert train.labeled[0, 2]
    assert not train.contoured[0, 2]
    assert read_json(output / "splits.json") == read_json(cases / "splits.json")
    assert "<td>pseudo-label<td>" in (output / "report.html").read_text(encoding="utf-8")
    assert re.search(r"^mandible +1 of 2 +3 of 3 +1\.00 ", caplog.text, re.MULTILINE)


def test_what_is_sure_agrees_with_contours(cases, tmp_path):
    """pseudo.json tells how the rule does on organs that have a contour."""
    assert run(cases, tmp_path / "filled") == 0
    brainstem = read_json(tmp_path / "filled" / "case_1" / "pseudo.json")["brainstem"]
    assert brainstem["contoured"]
    assert brainstem["doubt"] == ""
    assert brainstem["precision"] > 0.9
    assert 0.5 < brainstem["recall"] < 1
    chiasm = read_json(tmp_path / "filled" / "case_1" / "pseudo.json")["chiasm"]
    assert chiasm == {"contoured": False, "doubt": "not found"}


def test_a_run_that_was_killed_continues_with_the_same_rule_only(cases, tmp_path, capsys):
    output = tmp_path / "filled"
    assert run(cases, output) == 0
    before = (output / "case_0" / "case.json").stat().st_mtime_ns
    shutil.rmtree(output / "case_2")
    assert run(cases, output) == 0
    assert (output / "case_2" / "case.json").is_file()
    assert (output / "case_0" / "case.json").stat().st_mtime_ns == before
    capsys.readouterr()
    assert run(cases, output, "--high", "0.8") == 2
    assert "was written with another model, rule or other cases" in capsys.readouterr().err


def test_a_folder_of_others_and_impossible_rules_are_refused(cases, tmp_path, capsys):
    assert run(cases, cases) == 2
    assert "not written by this command" in capsys.readouterr().err
    assert run(cases, tmp_path / "filled", "--high", "0.4") == 2
    assert "--low 0.2 --high 0.4: expected" in capsys.readouterr().err
    assert not (tmp_path / "filled").exists()


@pytest.mark.parametrize("stage_class", [BackboneStage, BackboneHeatmapStage])
def test_s_net_learns_from_pseudo_labels(stage_class, tiny_preset):
    """A voxel of an organ with a pseudo-label counts as the organ, although it has no contour."""
    stage = stage_class(tiny_preset, choose_compute("cpu", "fp32"), 0)
    size, organs = tiny_preset.grid.crop_size_vox, len(tiny_preset.organs)
    label = torch.full((1, *size), 3, dtype=torch.uint8)
    nothing = torch.zeros(1, organs, dtype=torch.bool)
    labeled = nothing.clone()
    labeled[0, 2] = True
    batch = Batch(
        image=torch.zeros(1, 1, *size),
        label=label,
        present=nothing,
        labeled=labeled,
        centers_vox=torch.full((1, organs, 3), torch.nan),
        roi_jitter=torch.zeros(1, organs, 3),
    )
    with torch.no_grad():
        filled = next(stage.training_step(batch)).loss
        missing = next(stage.training_step(batch._replace(labeled=nothing))).loss
    assert filled > missing + 0.1  # without it, the organ's probability is the background's
