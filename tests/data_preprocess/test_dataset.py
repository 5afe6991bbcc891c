"""dataset.py: where crops lie, what they hold, and that an item depends on the seed and its index only."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from data_preprocess.case_index import write_index
from data_preprocess.cases import measure_organs, read_case_info, read_case_infos
from data_preprocess.dataloaders import crop_dataset
from data_preprocess.dataset import CaseDataset, CaseFolder, ShapeDataset, read_box
from tests.conftest import TINY
from utils.config.preset import load_preset
from utils.imaging.masks import UNKNOWN_LABEL
from utils.io.files import write_json

CROP = (8, 16, 12)
ALL_ORGANS = range(9)
CHIASM, MANDIBLE, OPTIC_NERVE_LEFT, PAROTID_LEFT = 1, 2, 3, 5


@pytest.fixture
def train(case_folder, tiny_preset):
    return CaseFolder(case_folder, "train", tiny_preset.organ_names)


def crops(cases, preset, *, box=CROP, organs=ALL_ORGANS, organ_fraction=1.0, seed=0):
    return CaseDataset(cases, preset, box_size_vox=box, organs=organs, organ_fraction=organ_fraction, seed=seed)


def test_cases_are_memory_mapped(train):
    case = train[0]
    assert isinstance(case.image, np.memmap)
    assert isinstance(case.label, np.memmap)
    assert not case.image.flags.writeable


def test_cases_know_what_was_contoured(train, tiny_preset):
    assert train.case_ids == [f"case_{i}" for i in range(5)]
    case = train[3]
    assert [name for name, known in zip(tiny_preset.organ_names, case.contoured, strict=True) if known] == [
        "brainstem",
        "optic_nerve_left",
    ]
    expected = np.argwhere(case.label == OPTIC_NERVE_LEFT + 1).mean(axis=0)
    np.testing.assert_allclose(case.centers_vox[OPTIC_NERVE_LEFT], expected, atol=1e-5)
    assert np.isnan(case.centers_vox[CHIASM]).all()


def test_unknown_split_is_an_error(case_folder, tiny_preset):
    with pytest.raises(ValueError, match="the holdout split is empty"):
        CaseFolder(case_folder, "holdout", tiny_preset.organ_names)


@pytest.mark.parametrize("margin", [0, 4])
def test_crop_shows_the_case_where_its_centers_say(margin, train, tiny_preset):
    dataset = crops(train, tiny_preset, box=tuple(np.add(CROP, margin)), organ_fraction=0.5)
    by_id = {case.info.case_id: case for case in train}
    for i in range(20):
        sample = dataset[i]
        case = by_id[sample.case_id]
        assert sample.image_hu.dtype == torch.int16
        assert sample.label.dtype == torch.uint8
        assert sample.present.tolist() == case.contoured
        starts = np.unique(np.nan_to_num(case.centers_vox - sample.centers_vox.numpy(), nan=np.inf).round(3), axis=0)
        start = starts[np.isfinite(starts).all(axis=1)]
        assert len(start) == 1
        box = tuple(slice(int(a) + 30, int(a) + 30 + n) for a, n in zip(start[0], sample.label.shape, strict=True))
        np.testing.assert_array_equal(sample.image_hu, np.pad(case.image, 30, constant_values=-1000)[box])
        np.testing.assert_array_equal(sample.label, np.pad(case.label, 30)[box])


def test_every_organ_is_equally_likely_however_rare(train, tiny_preset):
    """Seven organs are contoured: the chiasm in case_2, the right nerve in case_1 alone, the others in four or five."""
    dataset = crops(train, tiny_preset)
    ids = [dataset[i].case_id for i in range(700)]
    common = {"case_0": 1 / 5 + 1 / 4 + 1 / 5 + 1 / 4 + 1 / 4, "case_3": 1 / 5 + 1 / 5}
    expected = {**dict.fromkeys(("case_1", "case_2"), common["case_0"] + 1), "case_4": common["case_0"], **common}
    for case_id, organs in expected.items():
        assert ids.count(case_id) / 700 == pytest.approx(organs / 7, abs=0.05), case_id


def test_rare_organ_is_seen_as_often_as_a_common_one(train, tiny_preset):
    dataset = crops(train, tiny_preset, organs=[CHIASM, MANDIBLE])
    ids = [dataset[i].case_id for i in range(300)]
    assert 0.5 < ids.count("case_2") / 300 < 0.75  # 1/2 for the chiasm and 1/2 * 1/4 for the mandible
    assert "case_3" not in ids


@pytest.mark.parametrize("margin", [0, 10])
def test_drawn_organ_is_in_the_crop_even_at_the_border(margin, train, tiny_preset):
    box = tuple(np.add(CROP, margin))
    inner = tuple(slice(margin // 2, margin // 2 + n) for n in CROP)
    for organ in (CHIASM, MANDIBLE, OPTIC_NERVE_LEFT):
        dataset = crops(train, tiny_preset, box=box, organs=[organ])
        assert all((dataset[i].label[inner] == organ + 1).any() for i in range(40))


def test_margin_does_not_keep_crops_from_the_ends(train, tiny_preset):
    """A crop of a box with a margin covers the same voxels as the crop without."""
    small, large = crops(train, tiny_preset), crops(train, tiny_preset, box=tuple(np.add(CROP, 10)))
    for i in range(20):
        assert torch.equal(small[i].label, large[i].label[5:13, 5:21, 5:17])


def test_crops_stay_inside_a_volume_that_is_large_enough(train, tiny_preset):
    dataset = crops(train, tiny_preset, organ_fraction=0.0)
    starts = []
    for i in range(60):
        sample = dataset[i]
        case = next(case for case in train if case.info.case_id == sample.case_id)
        start = case.centers_vox[0] - sample.centers_vox[0].numpy()  # the brainstem is contoured everywhere
        if sample.case_id != "case_3":
            assert (start >= -1e-4).all()
            assert (start + CROP <= np.add(case.image.shape, 1e-4)).all()
        starts.append(start)
    assert len(np.unique(np.round(starts), axis=0)) > 20


def test_small_volumes_are_padded_about_their_middle(train, tiny_preset):
    dataset = crops(train, tiny_preset, organ_fraction=0.0)
    sample = next(sample for sample in map(dataset.__getitem__, range(100)) if sample.case_id == "case_3")
    assert sample.image_hu.shape == CROP  # case_3 is 6 x 13 x 26
    assert (sample.image_hu[[0, 7]] == -1000).all()
    assert (sample.image_hu[1:7, 2:15] > -1000).all()
    assert (sample.image_hu[:, [0, 1, 15]] == -1000).all()


def test_item_is_a_function_of_seed_and_index(train, tiny_preset):
    first, again = (crops(train, tiny_preset, organ_fraction=0.6, seed=3) for _ in range(2))
    other = crops(train, tiny_preset, organ_fraction=0.6, seed=4)
    forwards = [first[i] for i in range(12)]
    backwards = [again[i] for i in reversed(range(12))][::-1]
    assert all(torch.equal(a.image_hu, b.image_hu) for a, b in zip(forwards, backwards, strict=True))
    assert not all(torch.equal(a.image_hu, other[i].image_hu) for i, a in enumerate(forwards))
    assert len({float(sample.image_hu.float().mean()) for sample in forwards}) == 12


def test_organs_that_nobody_contoured_are_an_error(train, tiny_preset):
    with pytest.raises(ValueError, match="none of submandibular_left is contoured"):
        crops(train, tiny_preset, organs=[7])


def test_shapes_are_boxes_around_their_organ(train, tiny_preset):
    preset = replace(tiny_preset, roi=replace(tiny_preset.roi, jitter_vox=(0, 0, 0)))
    dataset = ShapeDataset(train, preset, box_size_vox=(5, 13, 9), seed=0)
    organs = set()
    for i in range(40):
        sample = dataset[i]
        organs.add(sample.organ)
        assert sample.mask.shape == (5, 13, 9)
        assert set(sample.mask.unique().tolist()) == {0, 1}
        centroid = sample.mask.nonzero().double().mean(dim=0)
        assert (centroid - torch.tensor([2.0, 6.0, 4.0])).abs().max() <= 0.5
    assert organs == {0, 1, 2}


def test_shapes_are_displaced_by_up_to_the_jitter(train, tiny_preset):
    box = (9, 21, 17)
    dataset = ShapeDataset(train, tiny_preset, box_size_vox=box, seed=0)
    offsets = np.array(
        [dataset[i].mask.nonzero().double().mean(dim=0).numpy() - np.floor_divide(box, 2) for i in range(100)]
    )
    assert (np.abs(offsets).max(axis=0) <= np.add(tiny_preset.roi.jitter_vox, 0.5)).all()
    assert (offsets.std(axis=0) > 0.5).all()
    assert torch.equal(dataset[7].mask, ShapeDataset(train, tiny_preset, box_size_vox=box, seed=0)[7].mask)


def test_shapes_without_a_margin_are_the_middle_of_those_with_one(train, tiny_preset):
    small = ShapeDataset(train, tiny_preset, box_size_vox=(4, 12, 9), seed=0)
    large = ShapeDataset(train, tiny_preset, box_size_vox=(8, 16, 15), seed=0)
    for i in range(20):
        assert torch.equal(small[i].mask, large[i].mask[2:6, 2:14, 3:12])


@pytest.mark.parametrize("start", [(1, 1, 1), (-2, -1, -3), (2, 3, 4), (-9, 0, 0), (0, 50, 0), (-1, -1, -1)])
def test_box_is_filled_beyond_the_volume(start):
    volume = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    size = (5, 3, 9)
    box = read_box(volume, np.array(start), np.array(size), fill=-7)
    assert box.dtype == np.int16
    for position in np.ndindex(*size):
        there = np.add(start, position)
        inside = (there >= 0).all() and (there < volume.shape).all()
        assert box[position] == (volume[tuple(there)] if inside else -7)


def test_empty_split_is_an_error(tmp_path, tiny_preset):
    write_json(tmp_path / "splits.json", {"train": [], "val": [], "test": []})
    with pytest.raises(ValueError, match="the train split is empty"):
        CaseFolder(tmp_path, "train", tiny_preset.organ_names)


@pytest.fixture
def filled(case_folder, tiny_preset, tmp_path):
    """The train split, in which case_3 has a pseudo-label: parotid_left where there is no contour, beside a rim."""
    folder = tmp_path / "cases"
    shutil.copytree(case_folder, folder)
    info = read_case_info(folder / "case_3")
    label = np.load(folder / "case_3" / "label.npy")
    pseudo = np.full_like(label, UNKNOWN_LABEL)
    pseudo[:, 2:9] = PAROTID_LEFT + 1
    np.save(folder / "case_3" / "pseudo.npy", pseudo)
    organs = measure_organs(pseudo, tiny_preset.organ_names, ["parotid_left"])
    write_json(folder / "case_3" / "case.json", asdict(replace(info, pseudo_organs=organs)))
    write_index(folder, read_case_infos(folder))
    return CaseFolder(folder, "train", tiny_preset.organ_names)


def test_pseudo_labels_fill_crops_and_override_no_contour(filled, tiny_preset):
    case = filled[3]
    assert case.labeled[PAROTID_LEFT]
    assert not case.contoured[PAROTID_LEFT]
    dataset = CaseDataset(
        filled, tiny_preset, box_size_vox=(6, 13, 26), organs=[0], organ_fraction=0, seed=0, with_pseudo_labels=True
    )
    sample = next(sample for sample in map(dataset.__getitem__, range(50)) if sample.case_id == "case_3")
    contour = torch.from_numpy(np.array(read_box(case.label, *_box_of(sample, case), fill=0)))
    pseudo = torch.from_numpy(np.array(read_box(case.pseudo, *_box_of(sample, case), fill=0)))
    assert set(contour.unique().tolist()) == {0, 1, OPTIC_NERVE_LEFT + 1}
    assert torch.equal(sample.label[contour > 0], contour[contour > 0])
    assert torch.equal(sample.label[contour == 0], pseudo[contour == 0])
    assert sample.present.tolist() == case.contoured
    assert sample.labeled.tolist() == case.labeled
    assert sample.centers_vox[PAROTID_LEFT].isnan().all()


def _box_of(sample, case):
    """Corner and size of a sample's box."""
    corner = case.centers_vox[0] - sample.centers_vox[0].numpy()
    return corner.round().astype(int), sample.label.shape


def test_only_crops_of_all_organs_have_pseudo_labels(filled, tiny_preset):
    references = [
        crops(filled, tiny_preset, organs=[PAROTID_LEFT]),
        crop_dataset(filled, tiny_preset, 0, of_small_organs=True),
    ]
    for dataset in references:
        samples = [dataset[i] for i in range(30)]
        assert all(torch.equal(sample.labeled, sample.present) for sample in samples)
        assert all(sample.label.max() <= len(tiny_preset.organs) for sample in samples)
    assert all(references[0][i].case_id != "case_3" for i in range(30))
    for_s_net = crop_dataset(filled, tiny_preset, 1)
    assert any(
        sample.labeled[PAROTID_LEFT] and not sample.present[PAROTID_LEFT]
        for sample in map(for_s_net.__getitem__, range(200))
    )
    assert not filled.contoured[3, PAROTID_LEFT]  # by which validation and the AutoEncoder choose


def test_the_autoencoder_never_sees_pseudo_labels(filled, tiny_preset):
    preset = load_preset("phantom", [*TINY, "organs.parotid_left.small=true", "organs.parotid_right.small=true"])
    shapes = ShapeDataset(filled, preset, box_size_vox=(4, 12, 8), seed=0)
    assert 3 not in shapes.cases_with["parotid_left"]
