"""Names and colors of a label map's values, in the files that viewers read."""

import re
from collections.abc import Iterable
from pathlib import Path

from utils.config.organ_names import organ_key
from utils.config.preset import Preset
from utils.errors import UserError, shorten
from utils.io.files import read_json, write_text
from utils.io.volumes import volumes_in

COLOR_TABLE_NAME = "organs.ctbl"
NNUNET_DATASET = "dataset.json"
"""nnU-Net writes it beside its predictions, and its raw layout has it above the folders of label maps."""
COLOR = re.compile(r"(?: [\d.]+){1,4}$")
"""Up to four numbers at the end of a line of a color table."""
NNUNET_LABEL_FOLDERS = ("labelsTr", "labelsTs")


def check_color_table(folder: Path, preset: Preset) -> None:
    """Check that the label maps in a folder have the organs of a preset.

    Raises:
        UserError: the folder's color table names other organs, or there are volumes but no color table.
    """
    path = folder / COLOR_TABLE_NAME
    if not path.is_file():
        if folder.is_dir() and (volumes := volumes_in(folder)):
            raise UserError(
                f"{folder}: holds {shorten(volume.name for volume in volumes)} but no {COLOR_TABLE_NAME}, which would "
                "say what labels mean in them; choose another folder"
            )
    elif _keys(names := read_color_table(path)) != _keys(preset.organ_names):
        raise UserError(
            f"{path}: expected the organs {', '.join(preset.organ_names)}, but label maps in this folder have "
            f"{', '.join(names)}; choose another folder"
        )


def write_color_table(folder: Path, preset: Preset) -> None:
    """Write a 3D Slicer color table beside label maps: one line `value name R G B A` per organ, blanks in names as `_`.

    A table that is there stays as it is, with its colors; `check_color_table` says whether its organs are the same.
    """
    if (folder / COLOR_TABLE_NAME).is_file():
        return
    lines = ["# Color table: value name R G B A", "0 background 0 0 0 0"]
    names = ["_".join(name.split()) for name in preset.organ_names]
    colors = [" ".join(map(str, organ.color)) for organ in preset.organs]
    lines += [f"{value} {name} {color} 255" for value, (name, color) in enumerate(zip(names, colors, strict=True), 1)]
    write_text(folder / COLOR_TABLE_NAME, "\n".join(lines) + "\n")


def read_color_table(path: Path) -> tuple[str, ...]:
    """Organ names of labels 1, 2, ... in a color table; a name may have blanks.

    Raises:
        UserError: the file is not a color table of consecutive labels from 0.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    wrong = [" ".join(words) for value, words in enumerate(entries) if len(words) < 2 or words[0] != str(value)]
    if wrong or len(entries) < 2:
        found = f"`{wrong[0]}`" if wrong else "no organ"
        raise UserError(
            f"{path}: expected lines `value name R G B A` with values 0, 1, 2, ..., got {found}; correct or remove the "
            "file"
        )
    return tuple(COLOR.sub("", " ".join(words[1:])) for words in entries[1:])


def _keys(names: Iterable[str]) -> list[str]:
    """Equal for two spellings of the same organs: "spinal cord" is "spinal_cord" in a color table."""
    return [organ_key(name) for name in names]


def read_nnunet_labels(path: Path) -> dict[int, str]:
    """Label to organ name, without background, in nnU-Net's dataset.json.

    Raises:
        UserError: the file is damaged, or several labels are one organ (regions).
    """
    labels = read_json(path).get("labels")
    if isinstance(labels, dict) and all(key.isdecimal() for key in labels):  # version 1
        labels = {name: int(key) for key, name in labels.items()}
    if not isinstance(labels, dict) or not all(type(value) is int for value in labels.values()):
        raise UserError(
            f"{path}: labels: expected organ names with one number each, got {labels}; regions are not read"
        )
    return {value: name for name, value in labels.items() if value}


def find_label_names(folder: Path) -> dict[int, str] | None:
    """Label to organ name of the label maps in a folder: by its color table, or nnU-Net's dataset.json; None without.

    Raises:
        UserError: a file is damaged, or the two contradict each other.
    """
    table, dataset = folder / COLOR_TABLE_NAME, folder / NNUNET_DATASET
    if not dataset.is_file() and folder.name in NNUNET_LABEL_FOLDERS:
        dataset = folder.parent / NNUNET_DATASET
    names = dict(enumerate(read_color_table(table), 1)) if table.is_file() else None
    if not dataset.is_file():
        return names
    labels = read_nnunet_labels(dataset)
    if names is not None and (names.keys() != labels.keys() or _keys(names.values()) != _keys(map(labels.get, names))):
        raise UserError(
            f"{table} and {dataset} name the label values differently: {shorten(names.values())} and "
            f"{shorten(labels.values())}; remove the one that does not belong to these label maps"
        )
    return labels


def segment_metadata(preset: Preset) -> dict[str, str]:
    """Header fields by which 3D Slicer names and colors the segments of an NRRD label map."""
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for i, organ in enumerate(preset.organs):
        color = " ".join(f"{channel / 255:.4f}" for channel in organ.color)
        segment = {"ID": organ.name, "Name": organ.name, "LabelValue": str(i + 1), "Layer": "0", "Color": color}
        fields |= {f"Segment{i}_{name}": value for name, value in segment.items()}
    return fields
