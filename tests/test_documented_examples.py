"""The Python examples of README.md and docs/inference.md run as they stand."""

import re
from pathlib import Path

import pytest

from data_preprocess.sources import SOURCES
from utils.config.preset import load_preset
from utils.io.volumes import write_volume

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/inference.md"])
def test_the_example_segments_a_ct(page, tmp_path, real_data, monkeypatch, capsys):
    text = (ROOT / page).read_text(encoding="utf-8")
    (example,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "segment_image(" in code]
    (name,) = re.findall(r'ReadImage\("(.*?)"\)', example)
    source = SOURCES["openkbp"]
    patient = next(case for case in source.list_cases(real_data / "openkbp" / "validation-pats"))
    write_volume(tmp_path / name, source.read_case(patient, load_preset("openkbp")).volume)
    monkeypatch.chdir(tmp_path)
    exec(compile(example, page, "exec"), {})
    voxels = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines())
    assert 500 < int(voxels["mandible"]) < 2000  # 44 to 176 ml in this patient's voxels
