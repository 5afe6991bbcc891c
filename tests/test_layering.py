"""Which module may import which: the layers of the program, and what a training node has installed."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "utils": {"utils"},
    "data_preprocess": {"utils", "data_preprocess"},
    "models": {"utils", "models"},
    "losses": {"utils", "losses"},
}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")}
TRAINING_SCRIPTS = ("train_backbone", "train_SOL", "train_backbone_heatmap", "train_autoencoder", "adv_train")
SIMPLEITK_USERS = ("utils/io/volumes.py", "data_preprocess/resample.py", "data_preprocess/sources/")
NOT_ON_TRAINING_NODES = (
    "SimpleITK",
    "pydicom",
    "rt_utils",
    "cv2",
    "surface_distance",
    "skimage",
    "matplotlib",
    "pytest",
    "hypothesis",
)
SOURCES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def names_of(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


def imported_packages(path):
    """First names of everything that a file imports, at its top or anywhere in it."""
    packages = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            packages |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            packages.add(node.module.split(".")[0])
    return packages


def test_the_test_sees_the_program():
    assert set(TRAINING_SCRIPTS) <= SCRIPTS
    assert len(SOURCES) > 40
    assert imported_packages(ROOT / "adv_train.py") >= {"torch", *MAY_IMPORT}


@pytest.mark.parametrize("path", SOURCES, ids=names_of(SOURCES))
def test_packages_import_only_their_layer(path):
    ours = set(MAY_IMPORT) | SCRIPTS | {"tests", "benchmarks"}
    package = path.relative_to(ROOT).parts[0]
    forbidden = (imported_packages(path) & ours) - MAY_IMPORT[package]
    assert not forbidden, f"{path.relative_to(ROOT)} imports {', '.join(sorted(forbidden))}"


def test_no_script_imports_a_script():
    for path in ROOT.glob("*.py"):
        assert not imported_packages(path) & SCRIPTS, path.name


def test_only_readers_and_resampling_import_simpleitk():
    users = names_of(path for path in [*SOURCES, *ROOT.glob("*.py")] if "SimpleITK" in imported_packages(path))
    assert users
    assert all(user.startswith(SIMPLEITK_USERS) for user in users), users


def test_training_needs_nothing_that_a_training_node_lacks():
    blocked = f"sys.modules.update(dict.fromkeys({NOT_ON_TRAINING_NODES}))"  # None: import fails
    code = f"import sys; {blocked}; import {', '.join(TRAINING_SCRIPTS)}"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout + finished.stderr == ""  # importing does nothing that is seen
