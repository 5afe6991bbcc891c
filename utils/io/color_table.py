"""Names and colors of a label map's values, in the files that viewers read."""

from pathlib import Path

from utils.config.preset import Preset
from utils.errors import UserError, shorten
from utils.io.files import write_text
from utils.io.volumes import volumes_in

COLOR_TABLE_NAME = "organs.ctbl"


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
    elif (names := read_color_table(path)) != preset.organ_names:
        raise UserError(
            f"{path}: expected the organs {', '.join(preset.organ_names)}, but label maps in this folder have "
            f"{', '.join(names)}; choose another folder"
        )


def write_color_table(folder: Path, preset: Preset) -> None:
    """Write a 3D Slicer color table beside label maps: one line `value name R G B A` per organ.

    A table that is there stays as it is, with its colors; `check_color_table` says whether its organs are the same.
    """
    if (folder / COLOR_TABLE_NAME).is_file():
        return
    lines = ["# Color table: value name R G B A", "0 background 0 0 0 0"]
    lines += [f"{i} {organ.name} {' '.join(map(str, organ.color))} 255" for i, organ in enumerate(preset.organs, 1)]
    write_text(folder / COLOR_TABLE_NAME, "\n".join(lines) + "\n")


def read_color_table(path: Path) -> tuple[str, ...]:
    """Organ names of labels 1, 2, ... in a color table.

    Raises:
        UserError: the file is not a color table of consecutive labels from 0.
    """
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    if any(len(words) < 2 or words[0] != str(value) for value, words in enumerate(entries)):
        raise UserError(f"{path}: expected lines `value name R G B A` with values 0, 1, 2, ...; correct or remove it")
    return tuple(words[1] for words in entries[1:])


def segment_metadata(preset: Preset) -> dict[str, str]:
    """Header fields by which 3D Slicer names and colors the segments of an NRRD label map."""
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for i, organ in enumerate(preset.organs):
        color = " ".join(f"{channel / 255:.4f}" for channel in organ.color)
        segment = {"ID": organ.name, "Name": organ.name, "LabelValue": str(i + 1), "Layer": "0", "Color": color}
        fields |= {f"Segment{i}_{name}": value for name, value in segment.items()}
    return fields
