"""One case written in every raw layout."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_preprocess.label_map import merge_masks
from data_preprocess.sources.base import RawCase
from tests.dicom_files import ct_slices, save_all, structure_set, trace
from utils.config.preset import Preset
from utils.io.color_table import write_color_table
from utils.io.volumes import Volume, match_orientation, write_volume

PDDCA_NAMES = {
    "brainstem": "BrainStem",
    "chiasm": "Chiasm",
    "mandible": "Mandible",
    "optic_nerve_left": "OpticNerve_L",
    "optic_nerve_right": "OpticNerve_R",
    "parotid_left": "Parotid_L",
    "parotid_right": "Parotid_R",
    "submandibular_left": "Submandibular_L",
    "submandibular_right": "Submandibular_R",
}
TG_263_NAMES = {
    "brainstem": "Brainstem",
    "chiasm": "OpticChiasm",
    "mandible": "Bone_Mandible",
    "optic_nerve_left": "OpticNrv_L",
    "optic_nerve_right": "OpticNrv_R",
    "parotid_left": "Parotid_L",
    "parotid_right": "Parotid_R",
    "submandibular_left": "Glnd_Submand_L",
    "submandibular_right": "Glnd_Submand_R",
}
RAS = (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0)


def write_pddca(root: Path, raw: RawCase, case_id: str = "0522c0001") -> Path:
    """img.nrrd and structures/."""
    write_volume(root / case_id / "img.nrrd", raw.volume)
    _write_masks(root / case_id / "structures", raw, PDDCA_NAMES, "{}.nrrd")
    return root / case_id


def write_total_segmentator(root: Path, raw: RawCase) -> Path:
    """ct.nii.gz and segmentations/, with the axes of a NIfTI file from the machine: right, front, up."""
    folder = root / "s0001"
    write_volume(folder / "ct.nii.gz", _turned(raw.volume))
    for name, mask in raw.masks.items():
        volume = Volume(array=mask.dense().astype(np.uint8), geometry=raw.geometry)
        write_volume(folder / "segmentations" / f"{name}.nii.gz", _turned(volume))
    return folder


def write_hanseg(root: Path, raw: RawCase) -> Path:
    """Everything in one folder, beside an MR."""
    folder = root / "set_1" / "case_01"
    write_volume(folder / "case_01_IMG_CT.nrrd", raw.volume)
    write_volume(folder / "case_01_IMG_MR_T1.nrrd", raw.volume)
    _write_masks(folder, raw, TG_263_NAMES, "case_01_OAR_{}.seg.nrrd")
    return folder


def write_label_maps(root: Path, raw: RawCase, preset: Preset) -> Path:
    """images/ and labels/, as data_preprocess.export writes them."""
    label = merge_masks(raw.masks, preset, raw.geometry.size_zyx)
    write_volume(root / "images" / "p7.nii.gz", raw.volume)
    write_volume(root / "labels" / "p7.nii.gz", Volume(array=label, geometry=raw.geometry))
    write_color_table(root / "labels", preset)
    return root


def write_dicom(root: Path, raw: RawCase, patient: str = "P1") -> Path:
    """Slices and a structure set, their names in a muddle."""
    slices = ct_slices(raw.volume, patient=patient)
    rois = {TG_263_NAMES[name]: trace(mask.dense(), raw.geometry) for name, mask in raw.masks.items()}
    body = np.array([[0.0, 0, 0], [9, 0, 0], [9, 9, 0]]) + raw.geometry.world_mm((3, 20, 20))
    structures = structure_set(slices, rois | {"BODY": [body], "PTV_70": []})
    save_all([*slices, structures], root, lambda i: f"{patient}/{i % 7}/IM{(i * 37) % 1009}")
    return root


def _write_masks(folder: Path, raw: RawCase, names: Mapping[str, str], form: str) -> None:
    for name, mask in raw.masks.items():
        volume = Volume(array=mask.dense().astype(np.uint8), geometry=raw.geometry)
        write_volume(folder / form.format(names[name]), volume)


def _turned(volume: Volume) -> Volume:
    return match_orientation(volume, type(volume.geometry)(**{**volume.geometry.__dict__, "direction": RAS}))
