"""The training scripts in their order, and command lines for short runs of them on tiny cases."""

import adv_train
import train_autoencoder
import train_backbone
import train_backbone_heatmap
import train_SOL
from utils.io.checkpoint import read_checkpoint

SCRIPTS = {
    "backbone": (train_backbone, ()),
    "sol": (train_SOL, ("--init-from", "backbone")),
    "backbone_heatmap": (train_backbone_heatmap, ()),
    "autoencoder": (train_autoencoder, ()),
    "adversarial": (adv_train, ("--init-from", "sol", "--autoencoder", "autoencoder")),
}
"""Script, and the stages that it starts from."""


def arguments_of(stage, cases, runs, name, *more):
    """The words of a run of a stage in the folder `runs`, which holds the runs of the stages before it."""
    start = [word if word.startswith("--") else runs / word / "best.pt" for word in SCRIPTS[stage][1]]
    words = ["--cases", cases, "--run-dir", runs / name, "--batch-size", 2, "--set", f"{stage}.validate_every=1"]
    return [str(word) for word in (*words, *start, *more)]


def weights_of(run):
    """The weights and statistics of all networks of a run by name, after its last step."""
    networks = read_checkpoint(run / "last.pt")["networks"]
    return {f"{name}.{key}": value for name, network in networks.items() for key, value in network.items()}
