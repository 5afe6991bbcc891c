"""Training crops and shapes from memory-mapped cases."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler

from data_preprocess.cases import Case, list_split, open_case, read_case_info
from utils.preset import Preset

AIR_HU = -1000
CENTER_JITTER = 0.25
"""Largest displacement of a crop's center from the organ voxel it was drawn for, as a share of the crop."""


class CropSample(NamedTuple):
    """A crop as stored, larger than the training crop by the margin that augmentation needs; collated: a batch axis."""

    image_hu: torch.Tensor
    """(D, H, W) int16."""
    label: torch.Tensor
    """(D, H, W) uint8."""
    present: torch.Tensor
    """(N,) bool: organs contoured in this case."""
    centers_vox: torch.Tensor
    """(N, 3) float32 centroids (z, y, x) in voxels of the crop, also outside of it; NaN where not contoured."""
    case_id: str


class ShapeSample(NamedTuple):
    """The mask of one small organ in a box around its center; collated: a batch axis."""

    mask: torch.Tensor
    """(D, H, W) uint8, 0 or 1."""
    organ: int
    """Index among the small organs."""


class CaseFolder:
    """The cases of one split, opened on demand.

    Args:
        folder: folder of cases.
        split: "train", "val" or "test".
        organ_names: of the preset, in label order.
        limit: at most so many cases, evenly spread.

    Raises:
        ValueError: no such split, it is empty, or one of its cases is damaged.
    """

    def __init__(self, folder: Path, split: str, organ_names: tuple[str, ...], limit: int | None = None) -> None:
        case_ids = list_split(folder, split)
        if limit is not None and limit < len(case_ids):
            case_ids = [case_ids[i * len(case_ids) // limit] for i in range(limit)]
        self.folder = folder
        self.organ_names = organ_names
        self.infos = [read_case_info(folder / case_id) for case_id in case_ids]
        for info in self.infos:
            open_case(folder / info.case_id, info, organ_names)  # damaged cases show now, not in a worker hours later

    def __len__(self) -> int:
        return len(self.infos)

    def __getitem__(self, index: int) -> Case:
        if index >= len(self.infos):
            raise IndexError(index)
        info = self.infos[index]
        return open_case(self.folder / info.case_id, info, self.organ_names)


class EpochSampler(Sampler[int]):
    """Indices that never repeat: epoch e covers [e * n, (e + 1) * n), shared out among the ranks.

    The data sets here draw everything from their seed and the index, so that an epoch is the same whether the run
    reached it in one go or was resumed, with any number of workers.
    """

    def __init__(self, samples_per_epoch: int, rank: int = 0, num_ranks: int = 1) -> None:
        self.samples_per_epoch = samples_per_epoch
        self.rank = rank
        self.num_ranks = num_ranks
        self.epoch = 0

    def __iter__(self) -> Iterator[int]:
        first = self.epoch * self.samples_per_epoch
        return iter(range(first + self.rank, first + self.samples_per_epoch, self.num_ranks))

    def __len__(self) -> int:
        return len(range(self.rank, self.samples_per_epoch, self.num_ranks))


class CaseDataset(Dataset[CropSample]):
    """Random crops; item i is a function of the seed and i alone.

    A share of the crops is centered near a voxel of a contoured organ. The organ is drawn first, each with equal
    chance, then one of the cases that have it: drawn the other way round, rarely contoured organs would rarely be
    seen. The other crops lie anywhere in the cases that have one of the organs.

    Args:
        cases: the training cases.
        preset: organs.
        box_size_vox: size of the boxes to read: the preset's crop with augmentation's margin around it. The crop stays
            within the volume, the margin need not: else organs at the volume's ends would only ever lie in the margin.
        organs: indices of the organs to center on.
        organ_share: share of crops centered on an organ.
        seed: of all draws.

    Raises:
        ValueError: none of `organs` is contoured in any case, or a case has no CT.
    """

    def __init__(
        self,
        cases: CaseFolder,
        preset: Preset,
        *,
        box_size_vox: tuple[int, int, int],
        organs: Sequence[int],
        organ_share: float,
        seed: int,
    ) -> None:
        without_image = [info.case_id for info in cases.infos if not info.has_image]
        if without_image:
            raise ValueError(
                f"{cases.folder}: {len(without_image)} cases have no CT, for example {without_image[0]}; masks alone "
                "serve train_autoencoder.py only"
            )
        self.cases = cases
        self.box_size_vox = np.asarray(box_size_vox)
        self.crop_size_vox = np.asarray(preset.grid.crop_size_vox)
        self.jitter_vox = self.crop_size_vox * CENTER_JITTER
        self.organ_share = organ_share
        self.seed = seed
        self.cases_with = _cases_by_organ(cases, [preset.organ_names[organ] for organ in organs])
        self.eligible = sorted({index for indices in self.cases_with.values() for index in indices})

    def __getitem__(self, index: int) -> CropSample:
        rng = np.random.default_rng([self.seed, index])
        if rng.random() < self.organ_share:
            name = rng.choice(sorted(self.cases_with))
            case = self.cases[rng.choice(self.cases_with[name])]
            voxels = case.info.organs[name].voxels
            center = voxels[rng.integers(len(voxels))] + rng.uniform(-1, 1, 3) * self.jitter_vox
        else:
            case = self.cases[rng.choice(self.eligible)]
            center = rng.uniform(0, case.info.size_zyx)
        return self._crop(case, center)

    def _crop(self, case: Case, center: np.ndarray) -> CropSample:
        size = self.box_size_vox
        start = _inside(center, self.crop_size_vox, np.asarray(case.info.size_zyx)) - (size - self.crop_size_vox) // 2
        return CropSample(
            image_hu=torch.from_numpy(read_box(case.image, start, size, fill=AIR_HU)),
            label=torch.from_numpy(read_box(case.label, start, size, fill=0)),
            present=torch.tensor(case.contoured),
            centers_vox=torch.from_numpy(case.centers_vox - start.astype(np.float32)),
            case_id=case.info.case_id,
        )


class ShapeDataset(Dataset[ShapeSample]):
    """True masks of small organs, for the shape AutoEncoder; item i is a function of the seed and i alone.

    Args:
        cases: the training cases.
        preset: organs.
        box_size_vox: size of the boxes to read, augmentation's margin included.
        seed: of all draws.
    """

    def __init__(self, cases: CaseFolder, preset: Preset, *, box_size_vox: tuple[int, int, int], seed: int) -> None:
        self.cases = cases
        self.box_size_vox = np.asarray(box_size_vox)
        self.jitter_vox = np.asarray(preset.roi.jitter_vox)
        self.seed = seed
        self.labels = {preset.organ_names[organ]: organ + 1 for organ in preset.small_organs}
        self.cases_with = _cases_by_organ(cases, list(self.labels))

    def __getitem__(self, index: int) -> ShapeSample:
        rng = np.random.default_rng([self.seed, index])
        name = rng.choice(sorted(self.cases_with))
        case = self.cases[rng.choice(self.cases_with[name])]
        jitter = rng.integers(-self.jitter_vox, self.jitter_vox, endpoint=True)
        start = np.round(case.info.organs[name].center_vox).astype(int) + jitter - self.box_size_vox // 2
        label = read_box(case.label, start, self.box_size_vox, fill=0)
        mask = (label == self.labels[name]).astype(np.uint8)
        return ShapeSample(mask=torch.from_numpy(mask), organ=list(self.labels).index(name))


def read_box(array: np.ndarray, start: np.ndarray, size: np.ndarray, fill: int) -> np.ndarray:
    """Copy a box out of a volume; what lies beyond the volume is `fill`.

    Args:
        array: (D, H, W).
        start: lowest corner in voxels, may be negative.
        size: of the box.
        fill: value beyond the volume.

    Returns:
        (d, h, w) of the array's dtype, in memory.
    """
    box = np.full(tuple(size), fill, dtype=array.dtype)
    low = np.clip(start, 0, array.shape)
    high = np.clip(np.add(start, size), 0, array.shape)
    inside = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    box[inside] = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return box


def _inside(center: np.ndarray, size: np.ndarray, volume_size: np.ndarray) -> np.ndarray:
    """Lowest corner of a box about `center` that stays in the volume, or is centered on it where it is larger."""
    start = np.round(center - size / 2).astype(int)
    room = volume_size - size
    return np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), room // 2)


def _cases_by_organ(cases: CaseFolder, names: Sequence[str]) -> dict[str, list[int]]:
    """For every organ that some case has contoured, the indices of those cases."""
    found = {name: [i for i, info in enumerate(cases.infos) if name in info.organs] for name in names}
    found = {name: indices for name, indices in found.items() if indices}
    if not found:
        raise ValueError(f"{cases.folder}: none of {', '.join(names)} is contoured in any case of this split")
    return found
