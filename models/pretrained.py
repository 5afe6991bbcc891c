"""Loads trained networks from a checkpoint: one of yours, or a published model of this repository."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from models.ensemble import EnsemblePredictor, ensemble_difference
from models.focusnet import NETWORK_NAMES, FocusNet, build_network
from models.int8 import quantize_convolutions
from models.oom_fallback import OOMFallbackPredictor
from models.predictor import Predictor
from models.sliding_window import OVERLAP, window_starts
from models.tta import TTAPredictor
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement
from utils.io.checkpoint import (
    checkpoint_arrangement,
    checkpoint_preset,
    load_networks,
    read_checkpoint,
    require_networks,
)
from utils.io.dicom.description import DicomDescription, OrganNaming, displayed_names
from utils.io.files import validate_file_name
from utils.runtime.device import Compute, Precision, choose_compute
from utils.runtime.version import VERSION

WEIGHTS_FOLDER = Path(__file__).resolve().parent.parent / "weights"

CHECKSUM_DIGITS = 12
"""Of a checkpoint's SHA-256 in DICOM objects, whose texts are short."""


@dataclass(frozen=True)
class Model:
    """A trained FocusNet, ready to segment."""

    predictor: OOMFallbackPredictor | EnsemblePredictor | TTAPredictor
    preset: Preset
    """Names the organs of labels 1, 2, ... in `organ_names`."""
    autoencoder: nn.Module | None
    """Measures how plausible a small organ's shape is; None if the checkpoint has none."""
    arrangement: Arrangement = Arrangement(())
    """Of the organs in the training cases."""
    precision: Precision = "fp32"
    """In which the networks compute."""
    tta: bool = False
    """Whether `predictor` also takes the CT on a moved grid."""
    name: str = ""
    """Of the checkpoint's file, without its suffix; of an ensemble, that of the first and the number of others."""
    sha256: str = ""
    """Of the checkpoint's file; of an ensemble, the SHA-256 of its members' checksums, one after the other."""

    def describe(self, naming: OrganNaming) -> DicomDescription:
        """What the DICOM objects of a segmentation by this model say about their organs and origin."""
        names = displayed_names(self.preset, naming)
        return DicomDescription(
            organ_names=names, version=VERSION, model=f"{self.name}, SHA-256 {self.sha256[:CHECKSUM_DIGITS]}"
        )


def load_pretrained(name: str = "openkbp", *, device: str | None = None, precision: Precision | None = None) -> Model:
    """Load a published model; `inference.segment_image` and `inference.segment_array` take it.

    Args:
        name: of a file in weights/, without ".pt".
        device: cpu, cuda or cuda:N; None takes a GPU if there is one.
        precision: None takes bf16 where it is faster than fp32.

    Raises:
        UserError: there is no model of that name, or no such device.
    """
    return load_model(published_checkpoint(name), choose_compute(device, precision))


def published_checkpoint(name: str) -> Path:
    """The file of a published model.

    Raises:
        UserError: there is no model of that name.
    """
    published = {file.stem: file for file in sorted(WEIGHTS_FOLDER.glob("*.pt"))}
    if name not in published:
        raise UserError(f"model {name}: not found in {WEIGHTS_FOLDER}; choose from: {', '.join(published) or 'none'}")
    return published[name]


def load_model(
    checkpoint: Path,
    compute: Compute,
    *,
    overlap: float = OVERLAP,
    backbone_only: bool = False,
    tta: bool = False,
    tile_memory_gib: float = math.inf,
    others: Sequence[Path] = (),
) -> Model:
    """Rebuild the networks of a checkpoint, or of several as an ensemble.

    Args:
        checkpoint: of any stage but the autoencoder's. Its AutoEncoder and arrangement serve for an ensemble too.
        compute: device and precision.
        overlap: fraction of a window that its neighbor also covers, 0 to below 1.
        backbone_only: use S-Net alone.
        tta: average with the prediction for the mirrored CT on a moved grid.
        tile_memory_gib: blended probabilities larger than this are kept in a temporary file.
        others: further checkpoints of the same organs, grid and networks, whose results are averaged with the first's.

    Raises:
        UserError: a file is not a checkpoint, has no S-Net, or an organ's name cannot name a file; or the checkpoints
            of an ensemble differ.
    """
    window_starts(1, 1, overlap)  # checks the overlap before any CT is read
    options = {"overlap": overlap, "backbone_only": backbone_only, "limit_bytes": tile_memory_gib * 2**30}
    first, *rest = models = [_load_one(path, compute, **options) for path in (checkpoint, *others)]
    for path, other in zip(others, rest, strict=True):
        if difference := ensemble_difference(first.predictor, other.predictor):
            raise UserError(f"{path}: cannot be averaged with {checkpoint}, {difference}; leave it out")
    if rest:
        checksums = "".join(model.sha256 for model in models)
        first = replace(
            first,
            predictor=EnsemblePredictor([model.predictor for model in models]),
            name=f"{first.name} and {len(rest)} more",
            sha256=hashlib.sha256(checksums.encode()).hexdigest(),
        )
    return replace(first, predictor=TTAPredictor(first.predictor), tta=True) if tta else first


def _load_one(checkpoint: Path, compute: Compute, *, overlap: float, backbone_only: bool, limit_bytes: float) -> Model:
    content = read_checkpoint(checkpoint)
    preset = checkpoint_preset(content, checkpoint)
    remedy = "give one of train_backbone.py, adv_train.py or a stage between them"
    require_networks(content, ["s_net"], checkpoint, remedy)
    for name in preset.organ_names:
        validate_file_name(name, f"{checkpoint}: organ")
    wanted = ["s_net"] if backbone_only else NETWORK_NAMES
    networks = {name: build_network(name, preset) for name in wanted if name in content["networks"]}
    load_networks(networks, content, checkpoint)
    autoencoder = networks.pop("autoencoder", None)
    focusnet = compute.place(FocusNet(preset, **networks)).eval()
    if compute.precision == "int8":
        quantize_convolutions(focusnet)
    predictor = Predictor(focusnet, autocast=compute.autocast(), overlap=overlap, limit_bytes=limit_bytes)
    return Model(
        predictor=OOMFallbackPredictor(predictor, choose_compute("cpu", "fp32")),
        preset=preset,
        autoencoder=autoencoder.eval() if autoencoder else None,
        arrangement=checkpoint_arrangement(content),
        precision=compute.precision,
        name=checkpoint.stem,
        sha256=hashlib.sha256(checkpoint.read_bytes()).hexdigest(),
    )
