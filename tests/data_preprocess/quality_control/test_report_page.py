"""report_page.py: the page that shows every case, as text and in a real browser."""

import re
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from data_preprocess.cases import write_dataset
from data_preprocess.prepare import REPORT_NAME, finish, prepare_case
from tests.data_preprocess.small_case import GEOMETRY, small_case
from utils.config.preset import load_preset
from utils.imaging.masks import crop_mask

PRESET = load_preset("pddca", ["grid.spacing_zyx_mm=[3.0,2.0,2.5]"])
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
RED = (176, 0, 32)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Nine usual cases and one whose parotids are exchanged and whose mandible lies in air; one case failed."""
    folder = tmp_path_factory.mktemp("cases")
    write_dataset(folder, PRESET)
    for i in range(9):
        raw = small_case()
        masks = {"Unterkiefer" if name == "mandible" and i < 3 else name: mask for name, mask in raw.masks.items()}
        raw = replace(raw, case_id=f"case_{i}", patient=f"patient {i // 2}", masks=masks)
        prepare_case(raw, PRESET, folder)
    raw = small_case()
    moved = np.zeros(GEOMETRY.size_zyx, dtype=bool)
    moved[3:6, 0:2, 0:14] = True
    masks = raw.masks | {
        "mandible": crop_mask(moved, (0, 0, 0), GEOMETRY),
        "parotid_left": raw.masks["parotid_right"],
        "parotid_right": raw.masks["parotid_left"],
    }
    odd = replace(
        raw, case_id="odd", masks=masks, unmatched_structures=("PTV <70>",), notes=("1 localizer(s) left out",)
    )
    prepare_case(odd, PRESET, folder)
    with pytest.MonkeyPatch.context() as patch:  # the organs of the small case are smaller than any patient's
        patch.setattr("data_preprocess.quality_control.outliers.known_volume", lambda organ: None)
        finish(folder, PRESET, {"lost": "ct.nrrd: 3 < 4 & so on"})
    return folder / REPORT_NAME


@pytest.mark.slow
def test_the_page_says_what_a_person_should_check(page):
    text = page.read_text(encoding="utf-8")
    assert "<title>10 cases, 1 to check</title>" in text
    assert text.index("<h3>odd") < text.index("<h3>case_0")
    assert "left and right are swapped: it lies to the right of parotid_right" in text
    assert "mandible: 100% of it lies outside the body" in text
    assert "not in the preset: PTV &lt;70&gt;" in text
    assert "1 localizer(s) left out" in text
    assert "lost: ct.nrrd: 3 &lt; 4 &amp; so on" in text
    assert "10 cases of 6 patients" in text
    assert "raw spacing (z, y, x) 3 x 2 x 2.5 mm; raw size 16 x 28 x 34 voxels" in text
    assert "<tr><td>mandible<td>10<td>84<td>126<td>126<td>1.26<td>1.89<td>1.89<td>mandible (7), Unterkiefer (3)" in text
    assert "not compared with known volumes, because there are none: all organs" in text
    assert text.count("<img ") == 10


def test_the_page_points_nowhere(page):
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"https?:|<script|<link|url\(", text)
    assert set(re.findall(r'src="([^,]*),', text)) == {"data:image/webp;base64"}
    assert "default-src 'none'; img-src data:" in text


def open_in_browser(page, folder):
    """Take a picture of a page, folder/page.png.

    Returns:
        Addresses that the page asked for; what the browser wants for itself does not count, and it gets nothing.
    """
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"]
    command += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
    command += [f"--user-data-dir={folder / 'profile'}", f"--log-net-log={folder / 'net.json'}"]
    command += ["--window-size=1400,1600", f"--screenshot={folder / 'page.png'}", page.as_uri()]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120, check=False)
    assert (folder / "page.png").is_file(), done.stderr
    log = (folder / "net.json").read_text(encoding="utf-8")
    requests = re.findall(r'"network_isolation_key":"file://.*"url":"([^"]+)"', log)
    return {url for url in requests if not url.startswith("file:")}


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_the_page_in_a_browser_asks_for_nothing_and_shows_pictures_and_findings(page, tmp_path):
    assert open_in_browser(page, tmp_path) == set()
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB")).reshape(-1, 3).astype(int)
    assert (np.abs(pixels - RED).max(axis=1) < 20).sum() > 100  # what is to be checked is red
    assert (pixels.max(axis=1) < 10).mean() > 0.1  # air around the patients
    for name in small_case().masks:  # outlines, lossily compressed, and the legend's squares
        color = PRESET.organs[PRESET.organ_names.index(name)].color
        assert (np.abs(pixels - color).max(axis=1) < 40).sum() > 50


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_page_that_asks_for_something_would_be_noticed(tmp_path):
    (tmp_path / "page.html").write_text('<img src="http://127.0.0.1:9/picture.png">', encoding="utf-8")
    assert open_in_browser(tmp_path / "page.html", tmp_path) == {"http://127.0.0.1:9/picture.png"}
