"""The commands that pip installs, each called "focusnet-" and the name of its script: see pyproject.toml."""

from collections.abc import Callable
from importlib import import_module

from focusnet import make_importable


def _command(module: str) -> Callable[[], int]:
    """A function that runs the script and returns its exit status."""

    def run() -> int:
        make_importable()
        run_main = import_module("utils.runtime.command_line").run_main
        return run_main(import_module(module).main)

    return run


adv_train = _command("adv_train")
evaluate = _command("evaluate")
export = _command("data_preprocess.export")
inference = _command("inference")
prepare = _command("data_preprocess.prepare")
pseudo_labels = _command("pseudo_labels")
publish = _command("models.publish")
train_autoencoder = _command("train_autoencoder")
train_backbone = _command("train_backbone")
train_backbone_heatmap = _command("train_backbone_heatmap")
train_sol = _command("train_SOL")
