"""--help of every command."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in (".", "data_preprocess", "models", "benchmarks") for path in (ROOT / folder).glob("*.py")]
COMMANDS = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in FILES
    if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
)


def test_the_commands_of_the_readme_are_among_them():
    scripts = {"train_backbone", "train_SOL", "train_backbone_heatmap", "train_autoencoder", "adv_train"}
    tools = {"data_preprocess.prepare", "data_preprocess.export", "models.publish", "inference", "evaluate"}
    assert scripts | tools <= set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_the_command_does_and_what_it_takes(command, capsys):
    module = importlib.import_module(command)
    with pytest.raises(SystemExit) as stopped:
        module.main(["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    assert module.__doc__.splitlines()[0] in shown
    assert "--" in shown.partition("options:")[2]


@pytest.mark.parametrize(
    "path",
    [
        "data_preprocess/prepare.py",
        pytest.param("data_preprocess/export.py", marks=pytest.mark.slow),
        pytest.param("models/publish.py", marks=pytest.mark.slow),
    ],
)
def test_a_command_of_a_package_runs_by_its_path_from_any_folder(path, tmp_path):
    command = [sys.executable, str(ROOT / path), "--help"]
    finished = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "--output" in finished.stdout
