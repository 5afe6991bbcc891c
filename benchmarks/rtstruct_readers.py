"""Read structure sets with other programs and compare their masks with the label maps: see rtstruct_contours.py.

It prints the mean Dice of the organs and the mean ratio of their volumes. It imports nothing of this project.
The readers are imported by name, because this project does not require them.
"""

import argparse
import contextlib
import io
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk

KINDS = ("interpolated", "halfway", "edges")


def read_array(path: Path) -> np.ndarray:
    """Voxels (z, y, x) of a volume."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def by_dcmrtstruct2nii(rtstruct: Path, ct: Path, names: list[str]) -> Iterator[np.ndarray]:
    """Exact vertices; centers are filled by skimage."""
    convert = import_module("dcmrtstruct2nii").dcmrtstruct2nii
    with tempfile.TemporaryDirectory() as folder:
        convert(str(rtstruct), str(ct), folder, convert_original_dicom=False)
        for name in names:
            yield read_array(Path(folder) / f"mask_{name}.nii.gz")


def by_platipy(rtstruct: Path, ct: Path, names: list[str]) -> Iterator[np.ndarray]:
    """Vertices rounded to whole pixels."""
    platipy = import_module("platipy.dicom.io.rtstruct_to_nifti")
    image = platipy.read_dicom_image(ct)
    masks, found = platipy.transform_point_set_from_dicom_struct(image, pydicom.dcmread(rtstruct))
    for name in names:
        yield sitk.GetArrayFromImage(masks[found.index(name)])


def by_rt_utils(rtstruct: Path, ct: Path, names: list[str]) -> Iterator[np.ndarray]:
    """Vertices rounded to whole pixels, filled by OpenCV."""
    builder = import_module("rt_utils").RTStructBuilder
    structures = builder.create_from(dicom_series_path=str(ct), rt_struct_path=str(rtstruct))
    for name in names:
        yield structures.get_roi_mask_by_name(name).transpose(2, 0, 1)


def by_plastimatch(rtstruct: Path, ct: Path, names: list[str]) -> Iterator[np.ndarray]:
    """Exact vertices, even-odd."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["plastimatch", "convert", "--input", rtstruct, "--fixed", ct.parent / "label.nii.gz"]
        command += ["--output-prefix", folder, "--prefix-format", "nii.gz"]
        subprocess.run(list(map(str, command)), check=True, capture_output=True)
        for name in names:
            yield read_array(Path(folder) / f"{name}.nii.gz")


READERS: dict[str, Callable[[Path, Path, list[str]], Iterator[np.ndarray]]] = {
    "plastimatch": by_plastimatch,
    "dcmrtstruct2nii": by_dcmrtstruct2nii,
    "platipy": by_platipy,
    "rt-utils": by_rt_utils,
}


def score(reader: str, kind: str, cases: list[Path]) -> tuple[list[float], list[float]]:
    """Dice and volume ratio of every organ of the cases, read by one reader from one kind of contours."""
    scores, ratios = [], []
    for case in cases:
        structures = pydicom.dcmread(case / f"{kind}.dcm")
        numbers = {roi.ROIName: int(roi.ROINumber) for roi in structures.StructureSetROISequence}
        label = read_array(case / "label.nii.gz")
        with contextlib.redirect_stdout(io.StringIO()):
            masks = [mask > 0 for mask in READERS[reader](case / f"{kind}.dcm", case / "ct", list(numbers))]
        for number, mask in zip(numbers.values(), masks, strict=True):
            organ = label == number
            scores.append(2 * np.sum(mask & organ) / (mask.sum() + organ.sum()))
            ratios.append(mask.sum() / organ.sum())
    return scores, ratios


def main(argv: list[str] | None = None) -> None:
    """Print a table row per reader and kind of contours, over all cases below the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="folder that rtstruct_contours.py wrote")
    cases = sorted(path.parent for path in parser.parse_args(argv).input.rglob("label.nii.gz"))
    print(f"{len(cases)} cases\nreader           contours      mean Dice  lowest  volume ratio")
    for reader in READERS:
        for kind in KINDS:
            scores, ratios = score(reader, kind, cases)
            print(f"{reader:<16} {kind:<13} {np.mean(scores):9.4f} {min(scores):7.4f} {np.mean(ratios):13.3f}")


if __name__ == "__main__":
    main()
