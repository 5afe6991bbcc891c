"""utils/io/segmentations.py: cases, their files, and the names of organs."""

from pathlib import Path

import numpy as np
import pytest

from utils.config.preset import load_preset
from utils.errors import UserError
from utils.imaging.geometry import Geometry
from utils.io.color_table import segment_metadata, write_color_table
from utils.io.segmentations import OrganNameResolver, case_volumes, find_cases, open_structures, require_names
from utils.io.volumes import Volume, write_volume

SHAPE = (4, 5, 6)
GRID = Geometry(size_zyx=SHAPE, spacing_zyx_mm=(3.0, 2.0, 1.0))
NAMELESS = OrganNameResolver(None)


def write(path, values=(1,), dtype=np.uint8, metadata=None, grid=GRID):
    array = np.zeros(SHAPE, dtype=dtype)
    for i, value in enumerate(values):
        array[1, 2, i] = value
    write_volume(path, Volume(array=array, geometry=grid), metadata)


@pytest.fixture
def pddca():
    return OrganNameResolver(load_preset("pddca"))


def test_a_folder_of_label_maps_is_many_cases(tmp_path):
    for name in ("b.nii.gz", "a.nrrd", "c.mha"):
        write(tmp_path / name)
    (tmp_path / "a.json").write_text("{}", encoding="utf-8")
    cases = find_cases([tmp_path], NAMELESS)
    assert {case_id: case.label_map.name for case_id, case in cases.items()} == {
        "a": "a.nrrd",
        "b": "b.nii.gz",
        "c": "c.mha",
    }


@pytest.mark.parametrize("inner", ["", "segmentations", "structures"])
def test_folders_of_masks_are_cases(tmp_path, inner):
    for case_id in ("p1", "p2"):
        for organ in ("Parotid-Lt", "spleen"):
            write(tmp_path / case_id / inner / f"{organ}.nrrd")
    (tmp_path / "empty").mkdir()
    cases = find_cases([tmp_path], NAMELESS)
    assert list(cases) == ["p1", "p2"]
    assert set(cases["p1"].masks) == {"Parotid-Lt", "spleen"}


@pytest.mark.parametrize(
    ("path", "files"),
    [("p1", "p1/Brainstem.nrrd"), ("p1", "p1/segmentations/x.nrrd"), ("p1/segmentations", "p1/segmentations/x.nrrd")],
)
def test_the_folder_of_one_case_is_one_case(tmp_path, path, files):
    write(tmp_path / files)
    cases = find_cases([tmp_path / path], NAMELESS)
    assert list(cases) == ["p1"]
    assert list(cases["p1"].masks) == [Path(files).stem]


def test_files_several_paths_and_repetitions(tmp_path):
    write(tmp_path / "one" / "a.nii.gz")
    write(tmp_path / "two" / "b.nii.gz")
    write(tmp_path / "Lens_L.nrrd")
    assert list(find_cases([tmp_path / "one" / "a.nii.gz", tmp_path / "two"], NAMELESS)) == ["a", "b"]
    assert find_cases([tmp_path / "Lens_L.nrrd"], NAMELESS)["Lens_L"].masks
    with pytest.raises(ValueError, match="case a occurs twice among these paths"):
        find_cases([tmp_path / "one", tmp_path / "one"], NAMELESS)


def test_wrong_paths_are_named(tmp_path):
    (tmp_path / "notes.txt").write_text("", encoding="utf-8")
    for path, message in (("gone", "no such file"), ("notes.txt", "expected a volume"), (".", "expected label maps")):
        with pytest.raises(ValueError, match=message):
            find_cases([tmp_path / path], NAMELESS)


def test_masks_are_known_by_file_name(tmp_path, pddca):
    write(tmp_path / "p1" / "OpticNerve_L.nrrd")
    write(tmp_path / "p1" / "Brain-Stem.nrrd", values=())
    case = find_cases([tmp_path / "p1"], pddca)["p1"]
    structures = open_structures(case, pddca)
    assert structures.explicit
    assert structures.names == {"opticnerve left": "OpticNerve_L", "brainstem": "Brain-Stem"}
    assert structures.load("opticnerve left").corner_zyx == (1, 2, 0)
    assert not structures.load("brainstem").voxels.size


def test_two_files_of_one_organ_are_refused(tmp_path):
    for name in ("Parotid_L", "Parotid-Lt"):
        write(tmp_path / "p1" / f"{name}.nrrd")
    with pytest.raises(ValueError, match="'Parotid-Lt' and 'Parotid_L' are the same organ"):
        open_structures(find_cases([tmp_path], NAMELESS)["p1"], NAMELESS)


def test_a_mask_of_several_values_is_refused(tmp_path):
    write(tmp_path / "p1" / "Brain.nrrd", values=(1, 2))
    structures = open_structures(find_cases([tmp_path], NAMELESS)["p1"], NAMELESS)
    with pytest.raises(ValueError, match=r"expected a binary mask, got values from 1 to 2; .*: .*Brain\.nrrd"):
        structures.load("brain")


@pytest.mark.parametrize("source", ["header", "color table", "preset"])
def test_values_are_named_by_header_color_table_or_preset(tmp_path, source, pddca):
    preset = load_preset("pddca")
    write(tmp_path / "a.nrrd", values=(3, 5), metadata=segment_metadata(preset) if source == "header" else None)
    if source == "color table":
        write_color_table(tmp_path, preset)
    resolver = pddca if source == "preset" else NAMELESS
    case = find_cases([tmp_path], resolver)["a"]
    structures = open_structures(case, resolver)
    assert not structures.explicit
    assert list(structures.names.values()) == list(preset.organ_names)
    assert structures.load("mandible").corner_zyx == (1, 2, 0)
    assert structures.load("opticnerve right").corner_zyx == (1, 2, 1)
    assert not structures.load("chiasm").voxels.size
    require_names([case], [], resolver)


def test_own_names_go_before_the_presets_order(tmp_path, pddca):
    write(tmp_path / "a.nrrd", values=(1,), metadata=segment_metadata(load_preset("openkbp")))
    write(tmp_path / "b.nrrd", values=(7,), metadata=segment_metadata(load_preset("openkbp")))
    cases = find_cases([tmp_path], pddca)
    assert open_structures(cases["b"], pddca).load("mandible").voxels.size


def test_values_without_names_are_refused_once(tmp_path):
    write(tmp_path / "a.nii.gz")
    with pytest.raises(ValueError, match="its values have no names; give --preset"):
        require_names(find_cases([tmp_path], NAMELESS).values(), [], NAMELESS)


def test_a_damaged_header_is_named(tmp_path):
    write(tmp_path / "a.nrrd", metadata={"Segment0_Name": "Brain", "Segment0_LabelValue": "one"})
    with pytest.raises(UserError, match=r"Segment0_LabelValue: expected a number, got 'one'; .*: .*a\.nrrd"):
        open_structures(find_cases([tmp_path], NAMELESS)["a"], NAMELESS)


def test_two_segments_of_one_value_are_refused(tmp_path):
    """The second name replaced the first one, so that an organ's voxels were those of another one."""
    segments = {"Segment0_Name": "Brain", "Segment1_Name": "Lens", "Segment0_LabelValue": "1"}
    write(tmp_path / "a.nrrd", metadata=segments | {"Segment1_LabelValue": "1"})
    with pytest.raises(UserError, match=r"its segments Brain and Lens both have the value 1; .*: .*a\.nrrd"):
        open_structures(find_cases([tmp_path], NAMELESS)["a"], NAMELESS)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (np.float32, (0.5,)),
        (np.int16, (-5,)),
        (np.int16, (1500,)),
        (np.float32, (np.inf, 1)),
        (np.float32, (np.nan,)),
        (np.float64, (1e30,)),
    ],
)
def test_an_image_is_not_a_label_map(tmp_path, pddca, dtype, values):
    write(tmp_path / "a.nii.gz", values=values, dtype=dtype)
    with pytest.raises(ValueError, match="give a label map, not an image"):
        open_structures(find_cases([tmp_path], pddca)["a"], pddca)


def test_labels_stored_as_floats_are_labels(tmp_path, pddca):
    write(tmp_path / "a.nii.gz", values=(1.0, 2.0), dtype=np.float32)
    assert open_structures(find_cases([tmp_path], pddca)["a"], pddca).load("chiasm").voxels.sum() == 1


def test_flipped_storage_is_the_same_grid(tmp_path, pddca):
    flipped = Geometry(
        size_zyx=SHAPE,
        spacing_zyx_mm=GRID.spacing_zyx_mm,
        origin_xyz_mm=GRID.world_mm((0, 4, 5)),
        direction=(-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0),
    )
    array = np.zeros(SHAPE, dtype=np.uint8)
    array[1, 2, 0] = 1
    write_volume(tmp_path / "a.nrrd", Volume(array=np.flip(array, (1, 2)), geometry=flipped))
    mask = open_structures(find_cases([tmp_path], pddca)["a"], pddca).load("brainstem")
    assert mask.corner_zyx == (1, 2, 0)
    assert mask.geometry.matches(GRID)


def test_cts_are_named_by_their_files_or_by_folders_with_one_volume(tmp_path):
    for name in ("a.nii.gz", "a/other.nrrd", "b/CT_IMAGE.nrrd", "c/one.mha", "c/two.mha", ".d/x.mha"):
        write(tmp_path / name)
    found = {case_id: path.relative_to(tmp_path).as_posix() for case_id, path in case_volumes(tmp_path).items()}
    assert found == {"a": "a.nii.gz", "b": "b/CT_IMAGE.nrrd"}
