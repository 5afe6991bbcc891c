"""Fixtures of several packages' tests: a tiny preset, tiny cases, and real data where there is any."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; tensors of tests are too small for threads
os.environ["PYTHONIOENCODING"] = "utf-8"  # of processes that tests start, whose output they read

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from data_preprocess.cases import CaseInfo, measure_organs, write_case, write_dataset
from utils.config.preset import Preset, load_preset
from utils.imaging.geometry import Geometry
from utils.io.files import write_json

DATA_VARIABLE = "FOCUSNET_DATA"
TINY = (
    "grid.spacing_zyx_mm=[3.0,2.0,1.5]",
    "grid.crop_size_vox=[8,16,12]",
    "grid.roi_size_vox=[4,12,8]",
    "networks.width=0.25",
    "networks.autoencoder_code=16",
)
BLOCKS = {
    "brainstem": ((0.5, 0.8), (0.5, 0.75), (0.4, 0.6)),
    "chiasm": ((0.8, 1.0), (0.3, 0.45), (0.45, 0.6)),
    "mandible": ((0.0, 0.3), (0.1, 0.3), (0.2, 0.8)),
    "optic_nerve_left": ((0.7, 1.0), (0.1, 0.3), (0.6, 0.75)),
    "optic_nerve_right": ((0.7, 1.0), (0.1, 0.3), (0.25, 0.4)),
    "parotid_left": ((0.3, 0.6), (0.4, 0.7), (0.8, 1.0)),
    "parotid_right": ((0.3, 0.6), (0.4, 0.7), (0.0, 0.2)),
}
"""Organ to the part of the volume that it fills, as fractions of z, y and x; the parotids end at the border."""
COMMON = ("brainstem", "mandible", "optic_nerve_left", "parotid_left", "parotid_right")
SPLITS = {
    "train": {
        "case_0": ((12, 20, 18), COMMON),
        "case_1": ((9, 24, 20), (*COMMON, "optic_nerve_right")),
        "case_2": ((14, 18, 22), (*COMMON, "chiasm")),
        "case_3": ((6, 13, 26), ("brainstem", "optic_nerve_left")),
        "case_4": ((12, 22, 16), COMMON),
    },
    "val": {"case_5": ((12, 20, 18), (*COMMON, "chiasm"))},
    "test": {"case_6": ((10, 24, 20), COMMON)},
}
"""Case id to size and contoured organs. No case has submandibular glands, the chiasm is rare, and case_3 is short."""

WriteCase = Callable[[Path, str, np.ndarray, np.ndarray], CaseInfo]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Write bytes of file names that are not UTF-8 as escapes: pytest-xdist cannot send them to its main process."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(scope="session")
def tiny_preset() -> Preset:
    """The nine organs on a small grid with three different sizes and spacings."""
    return load_preset("phantom", TINY)


@pytest.fixture(scope="session")
def add_case(tiny_preset: Preset) -> WriteCase:
    """A function that writes image and label (D, H, W) as case `case_id`; organs without voxels are not contoured."""

    def add(folder: Path, case_id: str, image: np.ndarray, label: np.ndarray) -> CaseInfo:
        spacing = tiny_preset.grid.spacing_zyx_mm
        info = CaseInfo(
            case_id=case_id,
            source="drawn by a test",
            spacing_zyx_mm=spacing,
            size_zyx=image.shape,
            original=Geometry(size_zyx=image.shape, spacing_zyx_mm=spacing),
            crop_box=tuple((0, n) for n in image.shape),
            organs=measure_organs(label, tiny_preset.organ_names, tiny_preset.organ_names),
        )
        (folder / case_id).mkdir(parents=True)
        write_case(folder / case_id, info, image, label)
        return info

    return add


@pytest.fixture(scope="session")
def case_folder(tmp_path_factory: pytest.TempPathFactory, tiny_preset: Preset, add_case: WriteCase) -> Path:
    """A folder of seven tiny cases, for reading only: see `SPLITS`."""
    folder = tmp_path_factory.mktemp("cases")
    rng = np.random.default_rng(0)
    write_dataset(folder, tiny_preset)
    for cases in SPLITS.values():
        for case_id, (size, organs) in cases.items():
            label = np.zeros(size, dtype=np.uint8)
            for organ in organs:
                box = [slice(int(a * n), round(b * n)) for (a, b), n in zip(BLOCKS[organ], size, strict=True)]
                label[tuple(box)] = tiny_preset.organ_names.index(organ) + 1
            image = rng.normal(40 + 60 * label.astype(float), 10).round().astype(np.int16)
            add_case(folder, case_id, image, label)
    write_json(folder / "splits.json", {split: sorted(cases) for split, cases in SPLITS.items()})
    return folder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; without it the test is skipped."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    folder = Path(os.environ.get(DATA_VARIABLE, default))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; name its folder in {DATA_VARIABLE}")
    return folder


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests had no real data to run on: a skipped test looks like a passed one otherwise."""
    skipped = terminalreporter.stats.get("skipped", [])
    num_without_data = sum(DATA_VARIABLE in str(report.longrepr) for report in skipped)
    if num_without_data:
        terminalreporter.write_line(
            f"{num_without_data} tests were skipped because there is no real data; set {DATA_VARIABLE} to its folder "
            "(CONTRIBUTING.md says what it holds)",
            yellow=True,
        )
