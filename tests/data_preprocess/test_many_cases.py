"""Memory and start-up do not grow with the number of cases."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data_preprocess.case_index import write_index
from data_preprocess.dataset import NUM_CHECKED
from utils.io.files import write_json

ROOT = Path(__file__).resolve().parents[2]
FEW, MANY = 20, 2000
SIZE = (24, 48, 40)
NUM_DRAWN = 300

PROGRAM = """
import json, resource, sys
opened = []
sys.addaudithook(lambda event, values: opened.append(str(values[0])) if event == "open" else None)
from pathlib import Path
from data_preprocess.cases import read_dataset
from data_preprocess.dataset import CaseFolder
from data_preprocess.dataloaders import crop_dataset

folder = Path(sys.argv[1])
preset = read_dataset(folder)
cases = CaseFolder(folder, "train", preset.organ_names)
dataset = crop_dataset(cases, preset, seed=0)
at_start = len({path for path in opened if path.startswith(str(folder))})
drawn = {dataset[i].case_id for i in range(int(sys.argv[2]))}
used_mib = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
print(json.dumps([at_start, used_mib, len(cases)]))
"""


def measure(folder):
    command = [sys.executable, "-c", PROGRAM, str(folder), str(NUM_DRAWN)]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    return json.loads(finished.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_2000_cases_take_the_memory_of_20_and_are_not_read_at_the_start(case_folder, add_case, tiny_preset, tmp_path):
    rng, infos = np.random.default_rng(0), []
    drawn = tmp_path / "drawn"
    for i in range(FEW):
        label = rng.integers(0, 10, SIZE).astype(np.uint8)  # all organs, 64 voxels of each in case.json
        infos.append(add_case(drawn, f"case_{i}", rng.integers(-1000, 1000, SIZE).astype(np.int16), label))
    measured = {}
    for count in (FEW, MANY):
        folder = tmp_path / str(count)
        case_ids = [f"case_{i}" for i in range(count)]
        for i, case_id in enumerate(case_ids):
            (folder / case_id).mkdir(parents=True)
            for file in (drawn / f"case_{i % FEW}").iterdir():
                os.link(file, folder / case_id / file.name)
        (folder / "dataset.json").write_bytes((case_folder / "dataset.json").read_bytes())
        write_json(folder / "splits.json", {"train": case_ids, "val": [], "test": []})
        write_index(folder, [replace(infos[i % FEW], case_id=case_id) for i, case_id in enumerate(case_ids)])
        measured[count] = measure(folder)
    (files_few, mib_few, _), (files_many, mib_many, num_many) = measured[FEW], measured[MANY]
    assert num_many == MANY
    assert files_many == files_few == 3 + 3 * NUM_CHECKED  # dataset, splits and index; three files of each case probed
    assert mib_many < mib_few + 8, measured
