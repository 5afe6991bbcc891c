"""Measure a review page: its size, the time to write it, and the frames per second while slices are scrolled.

    python -m benchmarks.review_page --output review            # a noisy phantom of 512 x 512 x 200 voxels
    python -m benchmarks.review_page --page predictions/pt_1.html

Chromium draws without a graphics card, driven by playwright (requirements-test.txt).
"""

import argparse
import logging
import shutil
import sys
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import Page, sync_playwright
from scipy import ndimage

from data_preprocess.label_map import merge_masks
from data_preprocess.sources.phantom.source import generate_phantom
from utils.config.preset import load_preset
from utils.imaging.intensity import AIR_HU
from utils.io.files import make_folder
from utils.reporting.review.page import CaseReview, OrganRow, write_review_page
from utils.runtime.command_line import run_main

SIZE_ZYX = (200, 512, 512)
SPACING_ZYX_MM = (1.5, 0.98, 0.98)
NOISE_HU = 15.0
NOISE_WIDTH_VOX = 0.7
SECONDS = 4
SCROLL = """async ([name, seconds]) => {
    const canvas = document.querySelector(`#${name} canvas`);
    const slider = document.querySelector(`#${name} .slices`);
    const middle = slider.max >> 1;
    let [frames, direction] = [0, 1];
    slider.value = middle;
    slider.dispatchEvent(new Event("input"));
    const started = performance.now();
    while (performance.now() - started < 1000 * seconds) {
        if (Math.abs(slider.value - middle) > slider.max / 3) direction = slider.value > middle ? -1 : 1;
        slider.value = Number(slider.value) + direction;
        slider.dispatchEvent(new Event("input"));
        await new Promise(requestAnimationFrame);
        canvas.getContext("2d").getImageData(0, 0, 1, 1);  // waits until the canvas is drawn
        frames++;
    }
    return (1000 * frames) / (performance.now() - started);
}"""

logger = logging.getLogger(__name__)


def noisy_review() -> CaseReview:
    """A phantom with its contours, as large as a page must take: noise fills the whole CT, also the air."""
    preset = load_preset("phantom")
    raw = generate_phantom(4, spacing_zyx_mm=SPACING_ZYX_MM)
    label = merge_masks(raw.masks, preset, raw.volume.geometry.size_zyx)
    inside = [min(n, m) for n, m in zip(label.shape, SIZE_ZYX, strict=True)]
    padding = [(0, n - m) for n, m in zip(SIZE_ZYX, inside, strict=True)]
    cut = tuple(slice(-m, None) for m in inside)
    image = np.pad(raw.volume.array[cut], padding, constant_values=AIR_HU).astype(np.float32)
    rng = np.random.default_rng(0)
    for plane in image:
        noise = ndimage.gaussian_filter(rng.standard_normal(plane.shape, dtype=np.float32), NOISE_WIDTH_VOX)
        plane += noise * (NOISE_HU / noise.std())
    return CaseReview(
        case_id="phantom",
        image_hu=image.round().astype(np.int16),
        spacing_zyx_mm=SPACING_ZYX_MM,
        prediction=np.pad(label[cut], padding),
        reference=np.pad(np.roll(label, 2, axis=2)[cut], padding),
        organs=[OrganRow(name=o.name, color=o.color, label=i) for i, o in enumerate(preset.organs, 1)],
    )


def measure(page: Page) -> None:
    """Log the frames per second of every plane."""
    for name in ("axial", "coronal", "sagittal"):
        rate = page.evaluate(SCROLL, [name, SECONDS])
        logger.info("%s: %.0f frames per second", name, rate)


def main(argv: list[str] | None = None) -> int:
    """Write a page, or take one, and measure it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--output", type=Path, help="folder for the page of a phantom")
    which.add_argument("--page", type=Path, help="a page to measure")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="default: %(default)s")
    arguments = parser.parse_args(argv)
    path = arguments.page
    if arguments.output:
        make_folder(arguments.output)
        path, review = arguments.output / "phantom.html", noisy_review()
        started = time.perf_counter()
        write_review_page(path, review)
        logger.info("written in %.2f s", time.perf_counter() - started)
    logger.info("%s: %.2f MB", path, path.stat().st_size / 1e6)
    with sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=arguments.browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1920, "height": 1080})
        started = time.perf_counter()
        page.goto(path.absolute().as_uri())
        page.wait_for_selector("body[data-ready]", timeout=120_000)
        logger.info("opened in %.1f s", time.perf_counter() - started)
        measure(page)
        chromium.close()
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
