"""A drawn data set in OpenKBP's layout."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

CENTER_YXZ, RADIUS_YXZ = (64, 60, 50), (12, 10, 18)
"""The "body", in voxels of the CSV's axes (y, x, z downwards)."""
BOXES_YXZ = {
    "Brainstem": ((66, 70), (58, 62), (36, 42)),
    "LeftParotid": ((60, 64), (65, 69), (46, 52)),
    "RightParotid": ((60, 64), (51, 55), (46, 52)),
    "Mandible": ((54, 58), (55, 65), (52, 56)),
}
WritePatient = Callable[..., Path]


@pytest.fixture(scope="session")
def write_openkbp_patient() -> WritePatient:
    """A function that writes the CSV files of one patient into a folder that it makes: a body of 40 HU."""

    def write(folder: Path, *, organs: tuple[str, ...] = tuple(BOXES_YXZ), spacing_mm: float = 4.0) -> Path:
        folder.mkdir(parents=True)
        grid = np.meshgrid(*[np.arange(128)] * 3, indexing="ij", sparse=True)
        body = sum(((p - c) / r) ** 2 for p, c, r in zip(grid, CENTER_YXZ, RADIUS_YXZ, strict=True)) < 1
        lines = [f"{index},1040.0" for index in np.flatnonzero(body)]
        (folder / "ct.csv").write_text(",data\n" + "\n".join(lines) + "\n", encoding="utf-8")
        for name in organs:
            mask = np.zeros((128, 128, 128), dtype=bool)
            mask[tuple(slice(*axis) for axis in BOXES_YXZ[name])] = True
            lines = [f"{index}," for index in np.flatnonzero(mask)]
            (folder / f"{name}.csv").write_text("\n".join([",data", *lines, ""]), encoding="utf-8")
        np.savetxt(folder / "voxel_dimensions.csv", [spacing_mm, spacing_mm, 2.5])
        return folder

    return write


@pytest.fixture
def openkbp(tmp_path: Path, write_openkbp_patient: WritePatient) -> Path:
    """Three patients: pt_1 complete, pt_2 without parotids, pt_201 for testing."""
    folder = tmp_path / "open-kbp"
    train, validation = (folder / "provided-data" / name for name in ("train-pats", "validation-pats"))
    write_openkbp_patient(train / "pt_1")
    write_openkbp_patient(train / "pt_2", organs=("Brainstem", "Mandible"), spacing_mm=3.5)
    write_openkbp_patient(validation / "pt_201", organs=("Brainstem",))
    return folder
