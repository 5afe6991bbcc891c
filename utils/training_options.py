"""The command line that all training scripts share."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class TrainingOptions:
    """Options of a training run, as given."""

    cases: Path
    run: Path
    preset: str | None = None
    init_from: list[Path] = field(default_factory=list)
    autoencoder: Path | None = None
    resume: bool = False
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    device: str | None = None
    precision: str | None = None
    compile: bool = False
    seed: int = 0
    workers: int = 1
    set: list[str] = field(default_factory=list)


def parse_training_options(description: str, argv: list[str] | None, *, adversarial: bool = False) -> TrainingOptions:
    """Parse the options of a training script.

    Args:
        description: first line of its help.
        argv: arguments; None takes the process's.
        adversarial: whether `--autoencoder` is an option.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path, required=True, help="folder written by data_preprocess.prepare")
    run_help = "folder for checkpoints, logs and the configuration; torchrun refuses --run, but takes --run-folder"
    parser.add_argument("--run", "--run-folder", type=Path, required=True, help=run_help)
    parser.add_argument("--preset", help="name in configs/ or path of a .toml; by default the one the cases carry")
    parser.add_argument(
        "--init-from", type=Path, action="append", default=[], metavar="CHECKPOINT", help="take its networks' weights"
    )
    if adversarial:
        parser.add_argument("--autoencoder", type=Path, metavar="CHECKPOINT", help="of train_autoencoder.py")
    parser.add_argument("--resume", action="store_true", help="continue the run from its last.pt")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--epochs", type=_positive, help="instead of the preset's; landmarks of the schedule scale")
    length.add_argument("--max-steps", type=_positive, help="stop after so many optimizer steps")
    parser.add_argument("--batch-size", type=_positive, help="crops per step and process, instead of the preset's")
    parser.add_argument("--device", help="cpu, cuda or cuda:N; a GPU if there is one")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), help="bf16 where the hardware computes in it")
    parser.add_argument("--compile", action="store_true", help="torch.compile the networks")
    parser.add_argument("--seed", type=_whole, default=0)
    parser.add_argument("--workers", type=_whole, default=1, help="processes that read crops; 0 reads in this one")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help="override the preset")
    return TrainingOptions(**vars(parser.parse_args(argv)))


def _whole(text: str, smallest: int = 0) -> int:
    if not (text.isascii() and text.isdigit()) or int(text) < smallest:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {smallest}, got {text!r}")
    return int(text)


def _positive(text: str) -> int:
    return _whole(text, smallest=1)
