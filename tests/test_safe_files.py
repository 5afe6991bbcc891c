"""Untrusted files: nothing in them is executed, and no name in them leads out of their folder."""

import io
import json
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

import train_backbone
from data_preprocess.cases import CaseInfo, open_case, read_case_info
from data_preprocess.prepare import prepare_case
from data_preprocess.sources import openkbp
from data_preprocess.sources.base import RawCase
from utils.config.preset import load_preset
from utils.imaging.geometry import Geometry
from utils.io.checkpoint import read_checkpoint
from utils.io.volumes import Volume
from utils.runtime.command_line import run_main


class Trap:
    """An object that creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def trap(tmp_path):
    """An object that creates a file when it is unpickled; the test fails if it was."""
    sprung = tmp_path / "sprung"
    yield Trap(sprung)
    assert not sprung.exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung")))
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_checkpoints_execute_nothing(write, trap, tmp_path):
    path = tmp_path / "best.pt"
    for content in (trap, {"format_version": 1, "networks": {}, "preset": {}, "stage": "sol", "state": trap}):
        write(content, path)
        with pytest.raises(ValueError, match=r"best\.pt: is damaged, or not a checkpoint of this program"):
            read_checkpoint(path)


@pytest.mark.parametrize("name", ["image", "label"])
def test_arrays_of_cases_execute_nothing(name, trap, case_folder, tmp_path):
    folder = shutil.copytree(case_folder / "case_0", tmp_path / "case_0")
    np.save(folder / f"{name}.npy", np.array([trap], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=rf"{name}\.npy: cannot be read"):
        open_case(folder, read_case_info(folder), ("brainstem",))
    (folder / f"{name}.npy").write_bytes(pickle.dumps(trap))
    with pytest.raises(ValueError, match=rf"{name}\.npy: cannot be read"):
        open_case(folder, read_case_info(folder), ("brainstem",))


@pytest.mark.parametrize("name", ["dataset.json", "splits.json", "index.json", "case_0/case.json"])
def test_descriptions_of_cases_execute_nothing(name, trap, case_folder, tmp_path, capsys):
    cases = shutil.copytree(case_folder, tmp_path / "cases")
    (cases / name).write_bytes(pickle.dumps(trap))
    assert run_main(train_backbone.main, ["--cases", str(cases), "--run-dir", str(tmp_path / "run")]) == 2
    assert f"{name}: is not valid JSON" in capsys.readouterr().err


def test_presets_execute_nothing(trap, tmp_path):
    path = tmp_path / "preset.toml"
    for content in (pickle.dumps(trap), b"description = __import__('os').getcwd()"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"preset\.toml: is not (valid TOML|text in UTF-8)"):
            load_preset(str(path))
    with pytest.raises(ValueError, match="networks.width: expected a number"):
        load_preset("phantom", ["networks.width=__import__('os').getcwd()"])


def case_named(name):
    return CaseInfo(
        case_id=name,
        source="raw",
        spacing_zyx_mm=(3.0, 2.0, 1.5),
        size_zyx=(2, 3, 4),
        original=Geometry(size_zyx=(2, 3, 4), spacing_zyx_mm=(3.0, 2.0, 1.5)),
        crop_box=((0, 2), (0, 3), (0, 4)),
        organs={},
    )


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "..", "a/b"])
def test_a_case_is_not_written_outside_its_folder(name, tmp_path, tiny_preset):
    volume = Volume(array=np.zeros((2, 3, 4), np.int16), geometry=case_named(name).original)
    folder = tmp_path / "cases"
    folder.mkdir()
    with pytest.raises(ValueError, match="cannot name a file"):
        prepare_case(RawCase(case_id=name, volume=volume, masks={}, split=None, source="raw"), tiny_preset, folder)
    assert list(tmp_path.iterdir()) == [folder]
    assert list(folder.iterdir()) == []


def test_members_of_archives_are_not_unpacked(tmp_path):
    """The archive names files above its folder, an absolute one, and a link to a secret."""
    folder = tmp_path / "train-pats"
    folder.mkdir()
    secret = tmp_path / "secret.csv"
    secret.write_text("secret", encoding="utf-8")
    with tarfile.open(folder / "pt_1.tar.xz", "w:xz") as archive:
        for name in ("../../outside.csv", "/tmp/focusnet_outside.csv", "pt_1/ct.csv"):
            member = tarfile.TarInfo(name)
            content = b",data\n0,1000\n"
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo("pt_1/voxel_dimensions.csv")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        archive.addfile(link)
    before = sorted(path for path in tmp_path.rglob("*"))
    [reference] = openkbp.list_cases(tmp_path)
    with pytest.raises(ValueError, match="voxel_dimensions"):  # the link is not followed
        openkbp.read_case(reference)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert not os.path.exists("/tmp/focusnet_outside.csv")


def test_a_trained_run_reads_no_case_outside_its_folder(case_folder, tmp_path, capsys):
    cases = shutil.copytree(case_folder, tmp_path / "cases")
    splits = json.loads((cases / "splits.json").read_text(encoding="utf-8"))
    shutil.copytree(case_folder / "case_0", tmp_path / "outside")
    (cases / "splits.json").write_text(json.dumps({**splits, "val": ["../outside"]}), encoding="utf-8")
    assert run_main(train_backbone.main, ["--cases", str(cases), "--run-dir", str(tmp_path / "run")]) == 2
    assert "'../outside' cannot name a file" in capsys.readouterr().err
