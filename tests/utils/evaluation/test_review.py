"""utils/evaluation/review.py: what the review pages of scored cases show."""

from dataclasses import replace

import numpy as np
import pytest

from utils.config.preset import load_preset
from utils.errors import UserError
from utils.evaluation.aggregate import find_low_cases
from utils.evaluation.evaluate import EvaluationSettings, evaluate_cases
from utils.evaluation.matching import match_cases
from utils.evaluation.review import review_case, write_reviews
from utils.evaluation.tolerances import Tolerances
from utils.imaging.geometry import Geometry
from utils.io.color_table import write_color_table
from utils.io.segmentations import OrganNameResolver, find_cases
from utils.io.volumes import Volume, read_lps, write_volume

GRID = Geometry(size_zyx=(30, 40, 50), spacing_zyx_mm=(9.0, 8.0, 7.0), origin_xyz_mm=(-5.0, 3.0, 100.0))
PHANTOM = load_preset("phantom")
BRAINSTEM, MANDIBLE, PAROTID = (
    PHANTOM.organ_names.index(name) + 1 for name in ("brainstem", "mandible", "parotid_left")
)


def write(path, array, geometry=GRID):
    write_volume(path, Volume(array=array, geometry=geometry))


def label_map(**boxes):
    """A label map with bars along x: label_map(mandible=(start, stop))."""
    array = np.zeros(GRID.size_zyx, dtype=np.uint8)
    for name, (start, stop) in boxes.items():
        label = PHANTOM.organ_names.index(name) + 1
        array[12 + label : 14 + label, 20:22, start:stop] = label
    return array


def ct_values(geometry=GRID):
    """A CT of which every voxel has another value."""
    return np.arange(np.prod(geometry.size_zyx), dtype=np.float32).reshape(geometry.size_zyx) / 20 - 1000


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "ref" / "p1.mha", label_map(brainstem=(20, 24), mandible=(20, 24)))
    write(tmp_path / "pred" / "p1.mha", label_map(brainstem=(22, 26), parotid_left=(25, 29)))
    write(tmp_path / "ct" / "p1_0000.mha", ct_values())
    for side in ("ref", "pred"):
        write_color_table(tmp_path / side, PHANTOM)
    return tmp_path


def evaluate(folder, preset=PHANTOM):
    settings = EvaluationSettings(preset=preset, tolerances=Tolerances([], preset), resample=False)
    resolver = OrganNameResolver(preset)
    pairs = match_cases(*(find_cases([folder / side], resolver) for side in ("pred", "ref")))
    return settings, pairs, evaluate_cases(pairs, settings, 1)


def review(folder, ct=None, preset=PHANTOM):
    settings, pairs, evaluation = evaluate(folder, preset)
    return review_case(pairs["p1"], ct or read_lps(folder / "ct" / "p1_0000.mha"), evaluation.rows, settings)


def test_contours_lie_on_the_ct_where_they_lay_in_the_files(folder):
    shown = review(folder)
    corner = [int(index[0]) for index in np.nonzero(ct_values() == shown.image_hu[0, 0, 0])]
    box = tuple(slice(c, c + n) for c, n in zip(corner, shown.image_hu.shape, strict=True))
    assert np.array_equal(shown.image_hu, ct_values()[box])
    labels = {organ.name: organ.label for organ in shown.organs}
    for volume, side in ((shown.prediction, "pred"), (shown.reference, "ref")):
        expected = read_lps(folder / side / "p1.mha").array
        assert np.count_nonzero(volume) == np.count_nonzero(expected)  # nothing is cut off
        for name, label in labels.items():
            assert np.array_equal(volume == label, expected[box] == PHANTOM.organ_names.index(name) + 1)
    margins = [50 / spacing for spacing in GRID.spacing_zyx_mm]
    assert [c <= low - m for c, low, m in zip(corner, (13, 20, 20), margins, strict=True)] == [True] * 3
    assert shown.image_hu.size < 0.5 * np.prod(GRID.size_zyx)
    assert shown.spacing_zyx_mm == GRID.spacing_zyx_mm
    assert not shown.notes


def test_organs_to_look_at_first_stand_first_and_have_scores_volumes_and_colors(folder):
    missed, scored, not_contoured = review(folder).organs
    assert [organ.name for organ in (missed, scored, not_contoured)] == ["mandible", "brainstem", "parotid_left"]
    assert list(missed.flags) == ["missed"]
    assert missed.values == {
        **{"Dice": 0, "HD95 (mm)": np.inf, "Surface Dice": 0, "ml": 0},
        "ref. ml": pytest.approx(16 * 0.504),
    }
    assert (scored.values["Dice"], scored.values["HD95 (mm)"]) == (0.5, pytest.approx(14))
    assert not_contoured.values == {
        **{"Dice": None, "HD95 (mm)": None, "Surface Dice": None},
        **{"ml": pytest.approx(16 * 0.504), "ref. ml": None},
    }
    assert [organ.color for organ in (missed, scored, not_contoured)] == [
        PHANTOM.organs[label - 1].color for label in (MANDIBLE, BRAINSTEM, PAROTID)
    ]


def test_without_a_preset_organs_have_different_colors(folder):
    colors = {organ.color for organ in review(folder, preset=None).organs}
    assert len(colors) == 3
    assert all(max(color) == 255 for color in colors)


def test_a_small_volume_and_a_predicted_absent_organ_are_flagged(tmp_path):
    empty, bar = np.zeros(GRID.size_zyx, dtype=np.uint8), np.zeros(GRID.size_zyx, dtype=np.uint8)
    bar[15, 20, 20] = 1
    for side, mask in (("ref", empty), ("pred", bar)):
        write(tmp_path / side / "p1" / "Brainstem.mha", mask)
    (organ,) = review(tmp_path, Volume(array=ct_values(), geometry=GRID), preset=None).organs
    assert list(organ.flags) == ["predicted, but absent", "unusual volume"]


def test_where_masks_overlap_the_smaller_one_is_seen(tmp_path):
    for name, stop in (("Mandible", 22), ("Brain", 30), ("Lens_L", 21)):
        mask = np.zeros(GRID.size_zyx, dtype=np.uint8)
        mask[15, 20, 20:stop] = 1
        for side in ("ref", "pred"):
            write(tmp_path / side / "p1" / f"{name}.mha", mask)
    shown = review(tmp_path, Volume(array=ct_values(), geometry=GRID), preset=None)
    labels = {organ.label: organ.name for organ in shown.organs}
    for volume in (shown.prediction, shown.reference):
        assert [labels[value] for value in volume[volume > 0]] == ["Lens_L", "Mandible", *["Brain"] * 8]


def test_a_ct_on_another_grid_is_resampled_and_the_page_says_so(folder):
    finer = replace(GRID, size_zyx=(60, 80, 100), spacing_zyx_mm=(4.5, 4.0, 3.5))
    values = np.kron(ct_values(), np.ones((2, 2, 2), dtype=np.float32))
    values[1::2, 1::2, 1::2] = 2000  # between the voxels of the contours
    shown, expected = review(folder, Volume(array=values, geometry=finer)), review(folder)
    assert np.allclose(shown.image_hu, expected.image_hu)
    assert np.array_equal(shown.prediction, expected.prediction)
    assert "the CT was resampled to the grid of the contours" in shown.notes[0]


def test_a_ct_that_covers_a_part_is_shown_with_air_and_one_elsewhere_is_refused(folder):
    part = replace(GRID, size_zyx=(30, 40, 23))
    shown = review(folder, Volume(array=ct_values(part), geometry=part))
    assert "does not cover all contours" in shown.notes[1]
    assert np.all(shown.image_hu[:, :, -1] == -1000)
    elsewhere = replace(GRID, origin_xyz_mm=(-5.0, 3.0, 600.0))
    with pytest.raises(UserError, match=r"contours lie outside the CT: CT size 30 .*600.00\).*check that it is the CT"):
        review(folder, Volume(array=ct_values(), geometry=elsewhere))


def write_pages(folder):
    settings, pairs, evaluation = evaluate(folder)
    low = find_low_cases(evaluation.rows)
    return write_reviews(folder / "review", folder / "ct", pairs, evaluation, low, settings, 1)


def test_pages_and_their_list_are_written_and_a_case_without_a_ct_is_a_failure(folder):
    for side in ("ref", "pred"):
        write(folder / side / "p2.mha", label_map(brainstem=(20, 24)))
    (folder / "pred" / "p3.mha").write_bytes(b"damaged")
    write(folder / "ref" / "p3.mha", label_map(brainstem=(20, 24)))
    (folder / "review").mkdir()
    (folder / "review" / "p2.html").write_text("page of an earlier evaluation", encoding="utf-8")
    failures = write_pages(folder)
    assert {case_id: failure.traceback for case_id, failure in failures.items()} == {"p2": None}
    assert "has no CT of p2" in failures["p2"].reason
    assert {path.name for path in (folder / "review").iterdir()} == {"p1.html", "index.html"}
    page, index = ((folder / "review" / name).read_text(encoding="utf-8") for name in ("p1.html", "index.html"))
    assert str(folder) not in page + index
    rows = index.partition("<tbody>")[2].split("<tr")[1:]
    assert [('href="p1.html"' in row, "missed: mandible" in row) for row in rows] == [
        (False, False),
        (True, True),
        (False, False),
    ]
    assert ["p3" in rows[0], "failed" in rows[0], "no page: see the log" in rows[2]] == [True] * 3
    assert "0.000 mandible" in rows[1]
    assert "∞ mm mandible" in rows[1]
