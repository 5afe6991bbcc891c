"""What pip installs: the wheel's content, and commands that run from any folder."""

import csv
import importlib
import json
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import focusnet
from utils.runtime.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("data_preprocess", "losses", "models", "utils")
SHIPPED = (*PACKAGES, "configs", "weights")
NOT_SHIPPED = ("benchmarks", "docs", "tests")
SCRIPT_GUARD = 'if __name__ == "__main__":'
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
COMMANDS = SETTINGS["project"]["scripts"]

COARSE = (
    "grid.spacing_zyx_mm=[8.0,6.0,6.0]",
    "grid.crop_size_vox=[16,32,32]",
    "grid.roi_size_vox=[4,12,12]",
    "networks.width=0.25",
)


def files_below(folder):
    """Its files and those of its subfolders, without what Python compiles."""
    return [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]


def program_files():
    """What the wheel holds in `focusnet/program`, relative to the clone."""
    files = [*ROOT.glob("*.py"), *(path for folder in SHIPPED for path in files_below(ROOT / folder))]
    return {path.relative_to(ROOT).as_posix() for path in files}


def test_every_script_has_a_command_that_is_called_like_it():
    folders = (ROOT, *(ROOT / package for package in PACKAGES))
    scripts = [path for folder in folders for path in folder.glob("*.py")]
    names = {path.stem.lower() for path in scripts if SCRIPT_GUARD in path.read_text(encoding="utf-8")}
    assert "train_sol" in names
    expected = {f"focusnet-{name.replace('_', '-')}": f"focusnet.commands:{name}" for name in names}
    assert expected == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_runs_its_script(command, monkeypatch, capsys):
    module, name = COMMANDS[command].split(":")
    monkeypatch.setattr(sys, "argv", [command, "--help"])
    with pytest.raises(SystemExit) as stopped:
        getattr(importlib.import_module(module), name)()
    assert stopped.value.code == 0
    assert f"usage: {command} " in capsys.readouterr().out


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("__init__.py")}
    expected = {".".join(("focusnet", "program", *folder.parts)) for folder in folders}
    assert {"focusnet", "focusnet.program", *expected} == set(SETTINGS["tool"]["setuptools"]["packages"])


def test_modules_of_the_program_come_before_others_of_their_names(monkeypatch):
    monkeypatch.setattr(sys, "path", ["elsewhere"])
    focusnet.make_importable()
    focusnet.make_importable()
    assert sys.path == [str(ROOT), "elsewhere"]


def run(*command, **options):
    finished = subprocess.run(
        [str(word) for word in command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
        **options,
    )
    assert finished.returncode == 0, f"{command}\n{finished.stdout}"
    return finished.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with the sdist, and the wheel made from it."""
    pytest.importorskip("build", reason="no module build: see requirements-test.txt")
    pytest.importorskip("setuptools", minversion="77", reason="no setuptools >= 77: see requirements-test.txt")
    copy, output = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("built")  # building leaves files behind
    for path in ROOT.iterdir():
        if path.is_file():
            shutil.copy(path, copy)
    for name in ("focusnet", *SHIPPED, *NOT_SHIPPED):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", output, copy)
    return output


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """An environment in which the wheel is installed; all other packages are those of this process.

    It lies in a repository of somebody else, as environments often do.
    """
    project = tmp_path_factory.mktemp("project")
    git = ("git", "-C", project, "-c", "user.name=A", "-c", "user.email=a@example.org")
    run(*git, "init", "--quiet")
    run(*git, "commit", "--quiet", "--allow-empty", "--message", "Theirs")
    environment = project / "environment"
    venv.create(environment)
    python = shutil.which("python", path=scripts_folder(environment))
    purelib = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'), end='')"))
    before = set(purelib.iterdir())
    alone = ("--no-deps", "--no-index", "--no-compile")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *alone, wheel)
    added = {path.name for path in set(purelib.iterdir()) - before}
    assert added == {"focusnet", f"focusnet-{wheel.name.split('-')[1]}.dist-info"}
    (purelib / "others.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    return environment


def scripts_folder(environment):
    return sysconfig.get_path("scripts", "venv", vars={"base": str(environment)})


@pytest.mark.slow
def test_the_wheel_holds_the_program_and_no_tests(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode())
    program = {name.removeprefix("focusnet/program/") for name in names if name.startswith("focusnet/program/")}
    assert program == program_files()
    own = {name for name in names if not name.startswith(("focusnet/program/", f"{info}/"))}
    assert own == {"focusnet/__init__.py", "focusnet/commands.py"}
    assert {f"{info}/licenses/LICENSE", f"{info}/licenses/NOTICE"} <= names
    assert metadata["Version"].startswith(VERSION)
    required = metadata.get_all("Requires-Dist")
    assert "torch==2.13.0" in required
    assert sorted(metadata.get_all("Provides-Extra")) == ["dicom-seg", "inference", "train"]
    assert [line.partition(";")[2] for line in required if line.startswith("tensorboard>")] == [' extra == "train"']
    assert not [line for line in required if line.startswith(("pytest", "ruff", "playwright"))]


@pytest.mark.slow
def test_the_sdist_holds_what_the_wheel_needs_and_no_tests(built):
    names = run(sys.executable, "-m", "tarfile", "--list", next(built.glob("*.tar.gz"))).splitlines()
    names = {name.strip().partition("/")[2] for name in names}
    root_files = {"LICENSE", "NOTICE", "README.md", "pyproject.toml", "requirements.txt", "requirements-train.txt"}
    assert names >= program_files() | root_files
    assert not [name for name in names if name.startswith("tests/")]


@pytest.mark.slow
def test_installed_commands_run_from_any_folder(installed, tmp_path):
    for name in ("utils", "models"):  # such as a user's own
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong one')", encoding="utf-8")
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}

    def command(name, *options):
        executable = shutil.which(name, path=scripts_folder(installed))
        assert executable, name
        return run(executable, *options, cwd=tmp_path, env=clean)

    phantoms = ("--source", "phantom", "--limit", 4, "--workers", 1)
    command("focusnet-export", *phantoms, "--split", "test", "--limit", 1, "--output", "raw")
    coarse = [word for change in COARSE for word in ("--set", change)]
    command("focusnet-prepare", *phantoms, *coarse, "--output", "cases")
    assert (tmp_path / "cases" / "report.html").is_file()
    training = ("--max-steps", 3, "--batch-size", 1, "--workers", 1, "--device", "cpu", "--precision", "fp32")
    command("focusnet-train-backbone", "--cases", "cases", "--run-dir", "run", *training)
    assert json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))["git_commit"] == "unknown"

    options = ("--model", "openkbp", "--review", "--save-overlay", "--device", "cpu", "--precision", "fp32")
    command("focusnet-inference", "--input", "raw/images", "--output", "predictions", *options)
    labels = sorted((tmp_path / "predictions").glob("*.nii.gz"))
    assert [path.with_suffix("").with_suffix(".html").is_file() for path in labels] == [True]
    scores = ("--preset", "openkbp", "--workers", 1, "--output", "scores")
    command("focusnet-evaluate", "--prediction", "predictions", "--reference", "predictions", *scores)
    with (tmp_path / "scores" / "scores.csv").open(newline="", encoding="utf-8") as file:
        dice = {row["organ"]: float(row["dice"]) for row in csv.DictReader(file) if row["status"] == "scored"}
    assert dice.items() >= {"brainstem": 1.0, "mandible": 1.0}.items()
