"""benchmarks/demo.py: the commands in their order, and what it replaces."""

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import demo
from tests.posix import MAKE_ONLY
from utils.io.files import write_json
from utils.runtime.command_line import run_main

ROOT = demo.ROOT


@pytest.fixture
def started(monkeypatch):
    """The commands that the demo starts, which are not run; `statuses` are their exit statuses, 0 at the end."""
    started = SimpleNamespace(commands=[], statuses=[])

    def run(command, check):
        started.commands.append(command)
        return SimpleNamespace(returncode=started.statuses.pop(0) if started.statuses else 0)

    monkeypatch.setattr(demo.subprocess, "run", run)
    return started


def test_every_command_takes_its_options_and_reads_what_an_earlier_one_wrote(started, tmp_path, capsys):
    assert run_main(demo.main, ["--output", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    written = []
    for python, script, *options in started.commands:
        assert python == sys.executable
        with pytest.raises(SystemExit):
            importlib.import_module(".".join((ROOT / script).relative_to(ROOT).with_suffix("").parts)).main(["--help"])
        assert {option for option in options if option.startswith("--")} <= set(capsys.readouterr().out.split())
        values = dict(zip(options, options[1:], strict=False))
        read = [values[name] for name in ("--cases", "--init-from", "--input", "--prediction") if name in values]
        assert all(any(Path(path).is_relative_to(folder) for folder in written) for path in read)
        written.append(values.get("--output") or values["--run-dir"])
    assert {Path(path).relative_to(tmp_path / "out").parts[0] for path in written} == set(demo.FOLDERS)


def test_the_scores_of_the_published_model_are_shown(started, tmp_path, capsys):
    assert run_main(demo.main, ["--output", str(tmp_path / "out")]) == 0
    shown = capsys.readouterr().out
    assert shown.index("S-Net alone:") < shown.index("FocusNet (SOS-Net") < shown.index("| brainstem |")
    assert str(tmp_path / "out" / "focusnet" / "index.html") in shown


@pytest.mark.parametrize(("status", "expected"), [(2, 2), (1, 1), (-9, 1)])
def test_the_first_failure_ends_the_demo(status, expected, started, tmp_path, caplog):
    started.statuses = [0, status]
    assert run_main(demo.main, ["--output", str(tmp_path)]) == expected
    assert len(started.commands) == 2
    assert f"train_backbone.py ended with status {status}; the demo stops" in caplog.text


def test_an_earlier_demo_is_replaced_and_nothing_else(started, tmp_path, capsys):
    for name in ("cases", "runs", "mine"):
        (tmp_path / name).mkdir()
    assert run_main(demo.main, ["--output", str(tmp_path)]) == 2
    assert "cases: not written by an earlier demo; move it away" in capsys.readouterr().err
    assert started.commands == []
    write_json(tmp_path / "cases" / "dataset.json", {"format_version": 1, "preset": {}})
    assert run_main(demo.main, ["--output", str(tmp_path)]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_it_runs_from_its_folder_by_short_commands(started, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_main(demo.main, ["--output", str(tmp_path)]) == 0
    assert started.commands[0][1] == os.path.join("data_preprocess", "prepare.py")


@MAKE_ONLY
def test_make_calls_it():
    command = ["make", "--no-print-directory", "--dry-run", "demo"]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True).stdout
    assert shown.splitlines()[-1].endswith("bin/python -m benchmarks.demo --output demo")
