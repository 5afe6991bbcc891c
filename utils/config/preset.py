"""The preset of a data set: its organs, grid, networks, losses and schedules, read from configs/*.toml."""

import copy
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Literal

from utils.config.file_names import is_portable_name
from utils.config.organ_names import common_key, organ_key
from utils.config.toml_dataclass import Range, Table, apply_overrides, build, read_toml, to_table
from utils.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"

STAGES = ("backbone", "sol", "backbone_heatmap", "autoencoder", "adversarial")

Positive = Annotated[int, Range(1)]
NonNegative = Annotated[float, Range(0)]
Fraction = Annotated[float, Range(0, 1)]
ZoomRange = Annotated[tuple[float, float], Range(0.1, 10)]
Size = Annotated[tuple[int, int, int], Range(1)]


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An organ at risk. Its label is its position in the preset, counted from 1."""

    name: str
    small: bool = False
    """SOL-Net localizes the organ and a branch of SOS-Net segments it."""
    focal_alpha: NonNegative
    """Weight of the organ in S-Net's focal loss."""
    color: Annotated[tuple[int, int, int], Range(0, 255)]
    """RGB, in images and color tables."""
    tolerance_mm: NonNegative
    """Tolerance of the surface Dice."""
    aliases: tuple[str, ...] = ()
    """Other names of the organ in raw data."""

    @property
    def names(self) -> tuple[str, ...]:
        """Name and aliases."""
        return (self.name, *self.aliases)


POOLING_VOX = (2, 4, 4)
"""S-Net pools z once and the plane twice; boxes and windows begin at multiples of these voxels of the networks."""
TTA_MOVE_VOX = 0.5
"""Test-time augmentation also sees the CT on a grid that is moved by this fraction of the networks' voxels."""


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """The networks' voxel grid."""

    spacing_zyx_mm: Annotated[tuple[float, float, float], Range(0.01, 100)]
    crop_size_vox: Size
    """Size of training crops and of the sliding window."""
    roi_size_vox: Size
    """Size of the box around a small organ that SOS-Net and the AutoEncoder see."""
    below_lung_apex_mm: Annotated[float, Range(-1000)] = 100.0
    """How far the field of view extends below the lung apex; a negative value ends it above the apex."""


@dataclass(frozen=True, kw_only=True)
class IntensitySettings:
    """Network input = (HU clipped to `clip_hu` + `shift_hu`) / `scale_hu`."""

    clip_hu: Annotated[tuple[float, float], Range()]
    shift_hu: Annotated[float, Range()]
    scale_hu: Annotated[float, Range(1)]


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Sizes of the networks."""

    width: Annotated[float, Range(0.01, 100)]
    """Factor on every channel count; 1 is the paper's."""
    sos_input: Literal["features", "image"]
    """"features": S-Net's features, stem, heatmap and image (the paper); "image": the image only (authors' release)."""
    autoencoder_code: Positive
    """Length of the shape code."""


@dataclass(frozen=True, kw_only=True)
class HeatmapSettings:
    """SOL-Net's Gaussian target around an organ's centroid, and its use in inference."""

    sigma_vox: Annotated[float, Range(0.1)]
    neighbor_slices: Annotated[int, Range(0)]
    """The Gaussian covers the center slice and this many slices on either side."""
    zero_below: Fraction
    """Smaller values of the Gaussian are set to 0."""
    peak_threshold: Fraction
    """An organ with a lower peak counts as not localized: inference keeps S-Net's segmentation and flags the organ."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """Where training crops are centered."""

    organ_fraction: Fraction
    """Fraction of crops that are centered on a contoured organ; every organ of the preset is equally likely."""
    small_organ_fraction: Fraction
    """The same in the adversarial stage, for the small organs."""


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Ranges of the random augmentation of a crop; values are sampled uniformly."""

    zoom_z: ZoomRange
    zoom_in_plane: ZoomRange
    rotation_axial_deg: Annotated[float, Range(0, 90)]
    """Largest rotation within the axial plane, in either direction."""
    rotation_tilt_deg: Annotated[float, Range(0, 90)]
    """Largest rotation out of the axial plane, in either direction."""
    mirror_probability: Fraction
    """Probability of a left-right flip, which also swaps the labels of paired organs."""
    intensity_scale: Fraction
    """The input is multiplied by 1 + u with |u| up to this value."""
    intensity_shift_hu: NonNegative
    """Largest HU offset, in either direction."""
    noise_hu: NonNegative
    """Largest standard deviation of the added Gaussian noise."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights of the loss terms."""

    missing_contours: Literal["marginal", "zero_weight"]
    """Organs without a contour: "marginal" adds their probability to the background's; "zero_weight" (the authors'
    release) gives them and the background a focal weight of 0."""
    background_alpha: NonNegative
    """Weight of the background in S-Net's focal loss."""
    focal_gamma: NonNegative
    dice_weight: NonNegative
    heatmap_weight: NonNegative
    """Weight of SOL-Net's loss in joint training with S-Net."""
    heatmap_peak_weight: NonNegative
    """Extra weight of voxels near a peak in the heatmap loss; 0 is the paper's mean squared error."""
    adversarial_weight: Fraction
    """AutoEncoder loss = (1 - adversarial_weight) * reconstruction - adversarial_weight * code distance."""
    shape_weight: NonNegative
    """Factor on the shape terms of SOS-Net's loss; 1 is the paper's, 0 trains FocusNet without shape constraint."""
    adversarial: bool = True
    """Train the AutoEncoder as a discriminator (the paper). If false, its weights are frozen."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """Training schedule of one stage. A run shortened on the command line scales warm-up and decay epochs with it."""

    epochs: Positive
    steps_per_epoch: Positive
    batch_size: Positive
    optimizer: Literal["sgd", "adam"]
    learning_rate: NonNegative
    weight_decay: NonNegative
    warmup_epochs: NonNegative = 0.0
    """Exponential warm-up from 1 % of the learning rate."""
    decay: Literal["steps", "cosine"] = "steps"
    decay_epochs: Annotated[tuple[int, ...], Range(0)] = ()
    decay_factor: Fraction = 0.1
    """Factor on the learning rate at each of `decay_epochs`."""
    ema_decay: Annotated[float, Range(0, 0.99999)] = 0.0
    """Decay per step of the exponential moving average of the weights (EMA), which validation and best.pt use; 0: the
    last weights."""
    validate_every: Positive
    """Epochs between two validations."""
    validation_cases: Positive
    """Largest number of validation cases."""


@dataclass(frozen=True, kw_only=True)
class RoiSettings:
    """SOS-Net's boxes in training, and the use of its output in inference."""

    center: Literal["predicted", "reference"]
    """"predicted": SOL-Net's peak (the paper); "reference": the centroid of the reference contour."""
    jitter_vox: Annotated[tuple[int, int, int], Range(0)]
    """Largest random displacement of the center, in either direction."""
    sos_blend_weight: Fraction = 1.0
    """Weight of SOS-Net's probability in a small organ's box; the rest is S-Net's. 1 is the paper's."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that differs between data sets."""

    name: str
    description: str
    organs: tuple[Organ, ...]
    """In the order of their labels."""
    left_right_pairs: tuple[tuple[str, str], ...]
    """(left, right) organ names."""
    grid: GridSettings
    intensity: IntensitySettings
    networks: NetworkSettings
    heatmap: HeatmapSettings
    sampling: SamplingSettings
    augmentation: AugmentationSettings
    roi: RoiSettings
    loss: LossSettings
    backbone: ScheduleSettings
    sol: ScheduleSettings
    backbone_heatmap: ScheduleSettings
    autoencoder: ScheduleSettings
    adversarial: ScheduleSettings

    @property
    def organ_names(self) -> tuple[str, ...]:
        """Names in label order."""
        return tuple(organ.name for organ in self.organs)

    @property
    def num_classes(self) -> int:
        """Number of organs, plus one for the background."""
        return len(self.organs) + 1

    @property
    def small_organs(self) -> tuple[int, ...]:
        """Indices into `organs` of the small organs."""
        return tuple(i for i, organ in enumerate(self.organs) if organ.small)

    @property
    def small_organ_names(self) -> tuple[str, ...]:
        """Names of the small organs, in label order."""
        return tuple(organ.name for organ in self.organs if organ.small)

    @property
    def mirrored_organs(self) -> tuple[int, ...]:
        """For each organ, the index of the organ that it becomes in a left-right flipped image."""
        partner = dict(self.left_right_pairs) | {right: left for left, right in self.left_right_pairs}
        return tuple(self.organ_names.index(partner.get(name, name)) for name in self.organ_names)

    def find_organ(self, raw_name: str) -> int | None:
        """The index of the organ with this name in raw data, or None.

        Names and aliases of the preset come before the synonyms of `organ_names.py`. `organ_key` unifies spellings.
        """
        own = self._organ_by_name.get(organ_key(raw_name))
        return self._organ_by_common_name.get(common_key(raw_name)) if own is None else own

    @cached_property
    def _organ_by_name(self) -> dict[str, int]:
        return {organ_key(name): i for i, organ in enumerate(self.organs) for name in organ.names}

    @cached_property
    def _organ_by_common_name(self) -> dict[str, int]:
        """Omits names that several organs share, because these organs may be parts of one structure."""
        owners = {(common_key(name), i) for i, organ in enumerate(self.organs) for name in organ.names}
        counts = Counter(key for key, _ in owners)
        return {key: i for key, i in owners if counts[key] == 1}


def load_preset(name_or_path: str, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset by name, for example "pddca" of configs/pddca.toml, or by path.

    Args:
        name_or_path: a path ends in .toml.
        overrides: values to replace, as "section.key=value".

    Raises:
        UserError: the preset is unknown, or the file or an override has problems; the message lists all of them.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = CONFIG_FOLDER / f"{name_or_path}.toml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in CONFIG_FOLDER.glob("*.toml")))
            raise UserError(f"{name_or_path}: no such preset; choose one of {known}, or give a path that ends in .toml")
    table = read_toml(path)
    table.setdefault("name", path.stem)
    return preset_from_table(table, source=str(path), overrides=overrides)


RENAMED_KEYS = {
    ("grid", "below_lung_tops_mm"): "below_lung_apex_mm",
    ("heatmap", "floor"): "zero_below",
    ("heatmap", "neighbour_slices"): "neighbor_slices",
    ("loss", "discriminator_share"): "adversarial_weight",
    ("roi", "sos_share"): "sos_blend_weight",
    ("sampling", "organ_share"): "organ_fraction",
    ("sampling", "small_organ_share"): "small_organ_fraction",
}
"""Section and key in version 0.1, and the new key: checkpoints, cases and presets of version 0.1 still load."""


def _update_old_keys(table: Table) -> Table:
    """Copy a preset's table and give keys and values of version 0.1 their new names."""
    table = copy.deepcopy(table)
    sections = {name: section for name, section in table.items() if isinstance(section, dict)}
    for (section, old), new in RENAMED_KEYS.items():
        if old in sections.get(section, {}):
            sections[section][new] = sections[section].pop(old)
    if sections.get("roi", {}).get("center") == "true":
        sections["roi"]["center"] = "reference"
    return table


def preset_from_table(table: Table, source: str, overrides: Sequence[str] = ()) -> Preset:
    """Build a preset from parsed TOML, or from the table that is stored with prepared cases and in checkpoints.

    Args:
        table: its `organs` are sections named like the organs, in label order.
        source: name of the table in error messages.
        overrides: as for `load_preset`.

    Raises:
        UserError: lists all problems, one per line if there are several.
    """
    if not isinstance(table, dict):
        raise UserError(f"{source}: expected the sections of a preset, got {table!r}; write the file again")
    table = _update_old_keys(table)
    problems = apply_overrides(table, [override for override in overrides if not _renamed(override)])
    problems += [problem for problem in map(_renamed, overrides) if problem]
    preset = build(Preset, table, problems)
    if preset is not None:
        problems += _contradictions(preset)
    if problems:
        source = f"{source} with --set" if overrides else source
        if len(problems) == 1:
            raise UserError(f"{source}: {problems[0]}; docs/presets.md lists all keys")
        count = f"{len(problems)} problems in the configuration (docs/presets.md lists all keys)"
        raise UserError("\n  ".join([f"{source}: {count}:", *problems]))
    return preset


def _renamed(override: str) -> str | None:
    """The problem of a --set option that uses a key of version 0.1, or None."""
    section, _, key = override.partition("=")[0].strip().partition(".")
    new = RENAMED_KEYS.get((section, key))
    return new and f"--set {override}: {section}.{key} is now called {section}.{new}"


def preset_to_table(preset: Preset) -> Table:
    """The table that `preset_from_table` reads back: dictionaries, lists, numbers and text."""
    table = to_table(preset)
    table["organs"] = {organ.pop("name"): organ for organ in table["organs"]}
    return table


def _contradictions(preset: Preset) -> list[str]:
    problems = []
    names = preset.organ_names
    if not 1 <= len(names) <= 255:
        problems.append(f"organs: expected 1 to 255 organs, got {len(names)}")
    problems += [
        f"organs.{name}: cannot name a file; use letters, digits, blanks, _ and -"
        for name in names
        if not is_portable_name(name)  # masks are called like their organ
    ]
    paired = [name for pair in preset.left_right_pairs for name in pair]
    problems += [f"left_right_pairs: {name} is not among the organs" for name in paired if name not in names]
    problems += [f"left_right_pairs: {name} occurs twice" for name in set(paired) if paired.count(name) > 1]
    claims = [(organ_key(name), organ.name) for organ in preset.organs for name in organ.names]
    owners = dict(claims)
    problems += [f"organs.{o}: {owners[n]} has the same name or alias {n!r}" for n, o in claims if owners[n] != o]
    small = {organ.name: organ.small for organ in preset.organs}
    problems += [
        f"left_right_pairs: {left} and {right} must both be small or both not, because flips swap them"
        for left, right in preset.left_right_pairs
        if {small.get(left), small.get(right)} == {True, False}
    ]
    grid = preset.grid
    if any(roi > crop for roi, crop in zip(grid.roi_size_vox, grid.crop_size_vox, strict=True)):
        problems.append(
            f"grid.roi_size_vox: {list(grid.roi_size_vox)} does not fit into the crop {list(grid.crop_size_vox)}"
        )
    for key in ("intensity.clip_hu", "augmentation.zoom_z", "augmentation.zoom_in_plane"):
        low, high = attrgetter(key)(preset)
        if low > high:
            problems.append(f"{key}: expected [low, high], got {[low, high]}")
    return problems
