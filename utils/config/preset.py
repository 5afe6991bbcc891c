"""A preset: the organs, geometry, networks, losses and schedules of one data set, read from configs/*.toml."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Literal

from utils.config.organ_names import common_key, organ_key
from utils.config.toml_dataclass import Table, apply_overrides, build, read_toml, to_table
from utils.errors import UserError

CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"

STAGES = ("backbone", "sol", "backbone_heatmap", "autoencoder", "adversarial")

RANGES = {
    "grid.spacing_zyx_mm": (0.01, 100),
    "grid.crop_size_vox": (1, math.inf),
    "grid.roi_size_vox": (1, math.inf),
    "grid.below_lung_apex_mm": (-1000, math.inf),
    "intensity.scale_hu": (1, math.inf),
    "networks.width": (0.01, 100),
    "networks.autoencoder_code": (1, math.inf),
    "heatmap.sigma_vox": (0.1, math.inf),
    "heatmap.neighbor_slices": (0, math.inf),
    "heatmap.floor": (0, 1),
    "heatmap.peak_threshold": (0, 1),
    "sampling.organ_fraction": (0, 1),
    "sampling.small_organ_fraction": (0, 1),
    "augmentation.zoom_z": (0.1, 10),
    "augmentation.zoom_in_plane": (0.1, 10),
    "augmentation.rotation_axial_deg": (0, 90),
    "augmentation.rotation_tilt_deg": (0, 90),
    "augmentation.mirror_probability": (0, 1),
    "augmentation.intensity_scale": (0, 1),
    "augmentation.intensity_shift_hu": (0, math.inf),
    "augmentation.noise_hu": (0, math.inf),
    "roi.jitter_vox": (0, math.inf),
    "roi.sos_blend_weight": (0, 1),
    "loss.background_alpha": (0, math.inf),
    "loss.focal_gamma": (0, math.inf),
    "loss.dice_weight": (0, math.inf),
    "loss.heatmap_weight": (0, math.inf),
    "loss.heatmap_peak_weight": (0, math.inf),
    "loss.adversarial_weight": (0, 1),
    "loss.shape_weight": (0, math.inf),
}
"""Smallest and largest value of the numbers in a preset, or of each number of a list."""

SCHEDULE_RANGES = {
    "epochs": (1, math.inf),
    "steps_per_epoch": (1, math.inf),
    "batch_size": (1, math.inf),
    "learning_rate": (0, math.inf),
    "weight_decay": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "decay_factor": (0, 1),
    "validate_every": (1, math.inf),
    "validation_cases": (1, math.inf),
}
"""The same for every stage."""

Triple = tuple[float, float, float]
Size = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class Organ:
    """An organ at risk; its label is its place in the preset, counted from 1."""

    name: str
    small: bool = False
    """Localized by SOL-Net and segmented by a branch of SOS-Net."""
    focal_alpha: float
    """Weight of the organ in S-Net's focal loss."""
    color: tuple[int, int, int]
    """RGB, 0 to 255, in pictures and color tables."""
    tolerance_mm: float
    """Surface Dice counts a surface as right within this distance."""
    aliases: tuple[str, ...] = ()
    """Other names of the organ in raw data."""


@dataclass(frozen=True, kw_only=True)
class GridSettings:
    """Sizes of the voxel grid that the networks see."""

    spacing_zyx_mm: Triple
    crop_size_vox: Size
    """Training crop and sliding window."""
    roi_size_vox: Size
    """Box around a small organ's peak that SOS-Net and the AutoEncoder see."""
    below_lung_apex_mm: float = 100.0
    """How far training scans reach below the lung tops, negative if they end above; inference cuts longer scans."""


@dataclass(frozen=True, kw_only=True)
class IntensitySettings:
    """Network input = (HU clipped to `clip_hu` + `shift_hu`) / `scale_hu`."""

    clip_hu: tuple[float, float]
    shift_hu: float
    scale_hu: float


@dataclass(frozen=True, kw_only=True)
class NetworkSettings:
    """Sizes of the networks."""

    width: float
    """Multiplies every channel count; 1 is the paper's."""
    sos_input: Literal["features", "image"]
    """SOS-Net sees S-Net features, stem, heatmap and image (the paper), or the image alone (the authors' release)."""
    autoencoder_code: int
    """Length of the shape code."""


@dataclass(frozen=True, kw_only=True)
class HeatmapSettings:
    """Gaussian target of SOL-Net around an organ's centroid."""

    sigma_vox: float
    neighbor_slices: int
    """The Gaussian is kept on the centre slice and so many slices on either side."""
    floor: float
    """Values below are set to 0."""
    peak_threshold: float
    """Below this peak value inference keeps S-Net's voxels and reports the organ as not localized."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How training crops are drawn."""

    organ_fraction: float
    """Share of crops centered on a contoured organ, every organ of the preset being equally likely."""
    small_organ_fraction: float
    """The same in the adversarial stage, over the small organs."""


@dataclass(frozen=True, kw_only=True)
class AugmentationSettings:
    """Ranges from which each crop's random change is drawn, uniformly."""

    zoom_z: tuple[float, float]
    zoom_in_plane: tuple[float, float]
    rotation_axial_deg: float
    """Largest rotation within the axial plane, either way."""
    rotation_tilt_deg: float
    """Largest rotation out of the axial plane (nodding and tilting the head), either way."""
    mirror_probability: float
    """Left/right mirroring; labels of paired organs swap with it."""
    intensity_scale: float
    """Input is multiplied by 1 + u, |u| up to this."""
    intensity_shift_hu: float
    """HU added, up to this either way."""
    noise_hu: float
    """Largest standard deviation of added noise."""


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """Weights of the loss terms."""

    missing_contours: Literal["marginal", "zero_weight"]
    background_alpha: float
    focal_gamma: float
    dice_weight: float
    heatmap_weight: float
    """Of SOL-Net's loss in joint training with S-Net."""
    heatmap_peak_weight: float
    """Extra weight of voxels near a peak in the heatmap loss; 0 is the paper's plain mean squared error."""
    adversarial_weight: float
    """AutoEncoder loss = (1 - share) reconstruction - share code distance."""
    shape_weight: float
    """Multiplies the shape terms of SOS-Net's loss; 1 is the paper's, 0 is FocusNet without shape constraint."""
    adversarial: bool = True
    """The AutoEncoder learns to tell predicted shapes from true ones (the paper), or only judges."""


@dataclass(frozen=True, kw_only=True)
class ScheduleSettings:
    """How one stage trains. Learning-rate landmarks scale with the run when it is shortened on the command line."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    optimizer: Literal["sgd", "adam"]
    learning_rate: float
    weight_decay: float
    warmup_epochs: float = 0.0
    """Exponential warm-up from 1 % of the learning rate."""
    decay: Literal["steps", "cosine"] = "steps"
    decay_epochs: tuple[int, ...] = ()
    decay_factor: float = 0.1
    """The learning rate is multiplied by it at each of `decay_epochs`."""
    validate_every: int
    """Epochs between validations."""
    validation_cases: int
    """At most so many cases of the validation split."""


@dataclass(frozen=True, kw_only=True)
class RoiSettings:
    """Where SOS-Net's boxes lie in training, and what its answer counts."""

    center: Literal["predicted", "true"]
    """SOL-Net's peak in the crop (the paper), or the true centroid."""
    jitter_vox: Size
    """Uniform displacement of the center, up to so many voxels either way."""
    sos_blend_weight: float = 1.0
    """A small organ's probability in its box is this share SOS-Net's and the rest S-Net's; 1 is the paper's."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Everything that differs between data sets."""

    name: str
    description: str
    organs: tuple[Organ, ...]
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
        """Organs and background."""
        return len(self.organs) + 1

    @property
    def small_organs(self) -> tuple[int, ...]:
        """Indices into `organs` of the small ones."""
        return tuple(i for i, organ in enumerate(self.organs) if organ.small)

    @property
    def mirrored_organs(self) -> tuple[int, ...]:
        """For each organ the index of the organ that it becomes in a left/right mirrored patient."""
        partner = {name: name for name in self.organ_names}
        for left, right in self.left_right_pairs:
            partner[left], partner[right] = right, left
        return tuple(self.organ_names.index(partner[name]) for name in self.organ_names)

    def find_organ(self, raw_name: str) -> int | None:
        """Index of the organ that a structure's name in raw data means, or None.

        The organ's name and aliases come first, then what else it is called, by TG-263 for example. Spellings are one:
        see `organ_key`.
        """
        own = self._organ_by_name.get(organ_key(raw_name))
        return self._organ_by_common_name.get(common_key(raw_name)) if own is None else own

    @cached_property
    def _organ_by_name(self) -> dict[str, int]:
        return {organ_key(name): i for i, organ in enumerate(self.organs) for name in (organ.name, *organ.aliases)}

    @cached_property
    def _organ_by_common_name(self) -> dict[str, int]:
        """Without names that several organs share: two organs may be parts of what the name means."""
        owners: dict[str, set[int]] = {}
        for i, organ in enumerate(self.organs):
            for name in (organ.name, *organ.aliases):
                owners.setdefault(common_key(name), set()).add(i)
        return {key: min(indices) for key, indices in owners.items() if len(indices) == 1}


def load_preset(name_or_path: str, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset by name (configs/<name>.toml) or by path.

    Args:
        name_or_path: for example "pddca" or "my/preset.toml".
        overrides: "section.key=value" texts that replace single values.

    Raises:
        UserError: unknown preset, or a list of everything that is wrong in the file and the overrides.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = CONFIG_FOLDER / f"{name_or_path}.toml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in CONFIG_FOLDER.glob("*.toml")))
            raise UserError(f"{name_or_path}: no such preset; known are {known}, or give a path ending in .toml")
    table = read_toml(path)
    table.setdefault("name", path.stem)
    return preset_from_table(table, source=str(path), overrides=overrides)


RENAMED_KEYS = {
    ("grid", "below_lung_tops_mm"): "below_lung_apex_mm",
    ("heatmap", "neighbour_slices"): "neighbor_slices",
    ("loss", "discriminator_share"): "adversarial_weight",
    ("roi", "sos_share"): "sos_blend_weight",
    ("sampling", "organ_share"): "organ_fraction",
    ("sampling", "small_organ_share"): "small_organ_fraction",
}
"""Old (section, key) to new key: checkpoints and cases of version 0.1 still load."""


def _with_new_keys(table: Table) -> Table:
    """A copy of the table in which keys of version 0.1 have their new names."""
    table = {name: dict(section) if isinstance(section, dict) else section for name, section in table.items()}
    for (section, old), new in RENAMED_KEYS.items():
        if old in table.get(section, {}):
            table[section][new] = table[section].pop(old)
    return table


def preset_from_table(table: Table, source: str, overrides: Sequence[str] = ()) -> Preset:
    """Build a preset from the parsed TOML, or from the table that a case folder or checkpoint carries.

    Args:
        table: its `organs` is a table of tables keyed by organ name, in label order.
        source: what to name in error messages.
        overrides: as for `load_preset`.

    Raises:
        UserError: everything that is wrong, one line each.
    """
    table = _with_new_keys(table)
    problems = apply_overrides(table, overrides)
    organs = []
    if isinstance(table.get("organs"), dict):
        organs = [_build_organ(name, section, problems) for name, section in table["organs"].items()]
        table["organs"] = [organ for organ in organs if organ is not None]
    preset = build(Preset, table, problems)
    if preset is not None and None not in organs:
        problems += _contradictions(preset)
    if problems:
        raise UserError(f"{source}: {len(problems)} problem(s) in the configuration:\n  " + "\n  ".join(problems))
    return preset


def preset_to_table(preset: Preset) -> Table:
    """The table that `preset_from_table` reads back: plain dictionaries, lists, numbers and text."""
    table = to_table(preset)
    table["organs"] = {organ.pop("name"): organ for organ in table["organs"]}
    return table


def _build_organ(name: str, section: object, problems: list[str]) -> Organ | None:
    if not isinstance(section, dict):
        problems.append(f"organs.{name}: expected a section, got {section!r}")
        return None
    if "name" in section:
        problems.append(f"organs.{name}.name: unknown key")
    return build(Organ, {**section, "name": name}, problems, f"organs.{name}.")


def _contradictions(preset: Preset) -> list[str]:
    problems = []
    names = preset.organ_names
    if not 1 <= len(names) <= 255:
        problems.append(f"organs: expected 1 to 255 organs, got {len(names)}")
    paired = [name for pair in preset.left_right_pairs for name in pair]
    problems += [f"left_right_pairs: {name} is not among the organs" for name in paired if name not in names]
    problems += [f"left_right_pairs: {name} occurs twice" for name in set(paired) if paired.count(name) > 1]
    claims = [(organ_key(name), organ.name) for organ in preset.organs for name in (organ.name, *organ.aliases)]
    owners = dict(claims)
    problems += [f"organs.{o}: its name or alias {n!r} is also of {owners[n]}" for n, o in claims if owners[n] != o]
    small = {organ.name: organ.small for organ in preset.organs}
    problems += [
        f"left_right_pairs: of {left} and {right} one is small, the other not: mirrored crops exchange them"
        for left, right in preset.left_right_pairs
        if small.get(left) != small.get(right) and left in names and right in names
    ]
    grid = preset.grid
    if any(roi > crop for roi, crop in zip(grid.roi_size_vox, grid.crop_size_vox, strict=True)):
        problems.append(
            f"grid.roi_size_vox: {list(grid.roi_size_vox)} does not fit the crop {list(grid.crop_size_vox)}"
        )
    for key in ("intensity.clip_hu", "augmentation.zoom_z", "augmentation.zoom_in_plane"):
        low, high = attrgetter(key)(preset)
        if low > high:
            problems.append(f"{key}: expected [low, high], got {[low, high]}")
    return problems + _out_of_range(preset)


def _out_of_range(preset: Preset) -> list[str]:
    limits = RANGES | {f"{stage}.{key}": limit for stage in STAGES for key, limit in SCHEDULE_RANGES.items()}
    problems = []
    for key, (low, high) in limits.items():
        value = attrgetter(key)(preset)
        values = value if isinstance(value, tuple) else (value,)
        if not all(low <= number <= high for number in values):  # NaN is in no range
            expected = f"at least {low}" if high == math.inf else f"{low} to {high}"
            problems.append(f"{key}: expected {expected}, got {list(value) if isinstance(value, tuple) else value}")
    return problems
