"""Training crops and shapes from memory-mapped cases."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from data_preprocess.case_index import read_index
from data_preprocess.cases import Case, open_case, read_case_info
from data_preprocess.splits import Splits, read_splits
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.intensity import AIR_HU

NUM_CHECKED = 8
"""Cases opened at the start, to notice a wrong or unreachable folder before the first step."""
NUM_CACHED_INFOS = 64
"""Contents of case.json that a process keeps in memory; a bound, so that memory does not grow with the cases."""
MAX_MEASURED = 300
"""Cases whose organs' positions are compared; reading the case.json of all would take long."""
MAX_DRAWS = 10
"""Unreadable cases in a row after which the run stops."""
CENTER_JITTER = 0.25
"""Largest displacement of a crop's center from the drawn organ voxel, as a fraction of the crop's size."""

logger = logging.getLogger(__name__)

_cached_case_info = lru_cache(maxsize=NUM_CACHED_INFOS)(read_case_info)


class CropSample(NamedTuple):
    """A training crop plus the margin that augmentation needs, as stored; a batch axis comes first when collated."""

    image_hu: torch.Tensor
    """(D, H, W) int16."""
    label: torch.Tensor
    """(D, H, W) uint8; with pseudo-labels, also `UNKNOWN_LABEL`."""
    present: torch.Tensor
    """(N,) bool: organs contoured in this case."""
    labeled: torch.Tensor
    """(N,) bool: organs that are contoured or have a pseudo-label in `label`."""
    centers_vox: torch.Tensor
    """(N, 3) float32 centroids (z, y, x) in voxels of this box, possibly outside of it; NaN where not contoured."""
    case_id: str
    index: int
    """Of the sample in the run."""


class ShapeSample(NamedTuple):
    """The mask of one small organ in a box around its center; a batch axis comes first when collated."""

    mask: torch.Tensor
    """(D, H, W) uint8, 0 or 1."""
    organ: int
    """Index among the small organs."""
    case_id: str
    index: int
    """Of the sample in the run."""


class CaseFolder:
    """The cases of one split of a folder, opened on demand; which organs are contoured is known without opening them.

    The splits are those of splits.json unless others are given.

    Attributes:
        contoured: (cases, organs) bool.
        labeled: the same, and True for organs with a pseudo-label.
        without_image: ids of the cases that have only masks.

    Raises:
        UserError: the split is missing or empty, or one of the few cases that are checked is damaged.
    """

    def __init__(self, folder: Path, split: str, organ_names: tuple[str, ...], splits: Splits | None = None) -> None:
        self.case_ids = (splits or read_splits(folder)).get(split, [])
        if not self.case_ids:
            raise UserError(f"{folder}/splits.json: the {split} split is empty; prepare more cases, or edit the file")
        self.folder = folder
        self.organ_names = organ_names
        entries = read_index(folder, self.case_ids)
        self.contoured = np.array([[name in entry.organs for name in organ_names] for entry in entries])
        pseudo = np.array([[name in entry.pseudo_organs for name in organ_names] for entry in entries])
        self.labeled = self.contoured | pseudo
        self.without_image = [name for name, entry in zip(self.case_ids, entries, strict=True) if not entry.has_image]
        for index in {i * len(self) // NUM_CHECKED for i in range(NUM_CHECKED)}:
            self[index]

    def __len__(self) -> int:
        return len(self.case_ids)

    def __getitem__(self, index: int) -> Case:
        if index >= len(self):
            raise IndexError(index)
        folder = self.folder / self.case_ids[index]
        return open_case(folder, _cached_case_info(folder), self.organ_names)

    def centers_mm(self) -> np.ndarray:
        """Centroids (z, y, x) in mm of at most `MAX_MEASURED` cases: (cases, organs, 3), NaN where not contoured."""
        chosen = np.unique(np.linspace(0, len(self) - 1, min(MAX_MEASURED, len(self))).round().astype(int))
        centers = np.full((len(chosen), len(self.organ_names), 3), np.nan)
        for own, index in zip(centers, chosen, strict=True):
            try:
                info = read_case_info(self.folder / self.case_ids[index])
            except UserError:  # a lost case is noticed and replaced in training
                continue
            for organ, name in enumerate(self.organ_names):
                if name in info.organs:
                    own[organ] = np.multiply(info.organs[name].center_vox, info.spacing_zyx_mm)
        return centers


class _OrganDataset(Dataset):
    """Random samples; item i is a function of the seed and i alone, as long as all cases can be read.

    If a case cannot be read, another replaces it, so that a lost case does not stop the run.
    """

    def __init__(
        self,
        cases: CaseFolder,
        box_size_vox: tuple[int, int, int],
        organ_names: Sequence[str],
        seed: int,
        known: np.ndarray,
    ) -> None:
        self.cases = cases
        self.box_size_vox = np.asarray(box_size_vox)
        self.seed = seed
        columns = {name: known[:, cases.organ_names.index(name)] for name in organ_names}
        self.cases_with = {name: np.flatnonzero(column) for name, column in columns.items() if column.any()}
        if not self.cases_with:
            raise UserError(
                f"{cases.folder}: none of {', '.join(columns)} is contoured in any case of this split; move cases that "
                "have one into it (splits.json)"
            )

    def __getitem__(self, index: int) -> CropSample | ShapeSample:
        for attempt in range(MAX_DRAWS):
            seed = [self.seed, index, attempt] if attempt else [self.seed, index]
            try:
                return self._draw(np.random.default_rng(seed), index)
            except UserError as error:
                reason = error
                logger.warning("sample %d: %s; another case replaces it", index, error)
        raise UserError(
            f"{MAX_DRAWS} cases in a row could not be read; is the disk still connected? The last error: {reason}"
        )

    def _draw_organ(self, rng: np.random.Generator) -> tuple[str, Case]:
        """Draw an organ, then a case that has it, so that rarely contoured organs are not seen rarely."""
        name = rng.choice(sorted(self.cases_with))
        return name, self.cases[rng.choice(self.cases_with[name])]


class CaseDataset(_OrganDataset):
    """Random crops.

    A fraction of them is centered near a voxel of an organ. The others lie anywhere in the cases that have one.

    Args:
        cases: of the train split.
        preset: organs and crop size.
        box_size_vox: size of the boxes to read: the preset's crop plus augmentation's margin. The crop stays within the
            volume, but the margin may exceed it; otherwise organs at the volume's ends would always lie in the margin.
        organs: indices of the organs to center on.
        organ_fraction: fraction of crops centered on an organ, in 0..1.
        seed: of all random draws.
        with_pseudo_labels: take pseudo-labels for contours; otherwise they are not seen.

    Raises:
        UserError: none of `organs` is contoured in any case, or a case has no CT.
    """

    def __init__(
        self,
        cases: CaseFolder,
        preset: Preset,
        *,
        box_size_vox: tuple[int, int, int],
        organs: Sequence[int],
        organ_fraction: float,
        seed: int,
        with_pseudo_labels: bool = False,
    ) -> None:
        if cases.without_image:
            raise UserError(
                f"{cases.folder}: {len(cases.without_image)} cases have no CT, for example {cases.without_image[0]}; "
                "only train_autoencoder.py can use them; remove them from splits.json, or prepare them with their CTs"
            )
        known = cases.labeled if with_pseudo_labels else cases.contoured
        super().__init__(cases, box_size_vox, [preset.organ_names[organ] for organ in organs], seed, known)
        self.with_pseudo_labels = with_pseudo_labels
        self.crop_size_vox = np.asarray(preset.grid.crop_size_vox)
        self.jitter_vox = self.crop_size_vox * CENTER_JITTER
        self.organ_fraction = organ_fraction
        self.eligible = np.unique(np.concatenate(list(self.cases_with.values())))

    def _draw(self, rng: np.random.Generator, index: int) -> CropSample:
        if rng.random() < self.organ_fraction:
            name, case = self._draw_organ(rng)
            voxels = case.organ(name).voxels
            center = voxels[rng.integers(len(voxels))] + rng.uniform(-1, 1, 3) * self.jitter_vox
        else:
            case = self.cases[rng.choice(self.eligible)]
            center = rng.uniform(0, case.info.size_zyx)
        size = self.box_size_vox
        start = _inside(center, self.crop_size_vox, np.asarray(case.info.size_zyx)) - (size - self.crop_size_vox) // 2
        label = read_box(case.label, start, size, fill=0)
        if self.with_pseudo_labels and case.pseudo is not None:
            label = np.where(label > 0, label, read_box(case.pseudo, start, size, fill=0))
        return CropSample(
            image_hu=torch.from_numpy(read_box(case.image, start, size, fill=AIR_HU)),
            label=torch.from_numpy(label),
            present=torch.tensor(case.contoured),
            labeled=torch.tensor(case.labeled if self.with_pseudo_labels else case.contoured),
            centers_vox=torch.from_numpy(case.centers_vox - start.astype(np.float32)),
            case_id=case.info.case_id,
            index=index,
        )


class ShapeDataset(_OrganDataset):
    """Reference masks of small organs, for the shape AutoEncoder; arguments as for `CaseDataset`."""

    def __init__(self, cases: CaseFolder, preset: Preset, *, box_size_vox: tuple[int, int, int], seed: int) -> None:
        self.labels = {preset.organ_names[organ]: organ + 1 for organ in preset.small_organs}
        super().__init__(cases, box_size_vox, list(self.labels), seed, cases.contoured)
        self.jitter_vox = np.asarray(preset.roi.jitter_vox)

    def _draw(self, rng: np.random.Generator, index: int) -> ShapeSample:
        name, case = self._draw_organ(rng)
        jitter = rng.integers(-self.jitter_vox, self.jitter_vox, endpoint=True)
        start = np.round(case.organ(name).center_vox).astype(int) + jitter - self.box_size_vox // 2
        label = read_box(case.label, start, self.box_size_vox, fill=0)
        mask = torch.from_numpy((label == self.labels[name]).astype(np.uint8))
        organ = list(self.labels).index(name)
        return ShapeSample(mask=mask, organ=organ, case_id=case.info.case_id, index=index)


def read_box(array: np.ndarray, start: np.ndarray, size: np.ndarray, fill: int) -> np.ndarray:
    """Copy a box of (D, H, W) voxels into memory; voxels outside of the volume are `fill`.

    Args:
        array: the volume.
        start: lowest corner (z, y, x) in voxels; may be negative.
        size: of the box (z, y, x).
        fill: value outside of the volume.
    """
    box = np.full(tuple(size), fill, dtype=array.dtype)
    low = np.clip(start, 0, array.shape)
    high = np.clip(np.add(start, size), 0, array.shape)
    inside = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    box[inside] = array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    return box


def _inside(center: np.ndarray, size: np.ndarray, volume_size: np.ndarray) -> np.ndarray:
    """Lowest corner of a box at `center`, shifted into the volume; a larger box is centered on the volume."""
    start = np.round(center - size / 2).astype(int)
    room = volume_size - size
    return np.where(room >= 0, np.clip(start, 0, np.maximum(room, 0)), room // 2)
