"""Names and colors of a label map's values, in the files that viewers read."""

from pathlib import Path

from utils.config.preset import Preset
from utils.errors import UserError
from utils.io.files import write_text

COLOR_TABLE_NAME = "organs.ctbl"


def check_color_table(folder: Path, preset: Preset) -> None:
    """Check that label maps in a folder mean the organs of a preset.

    Raises:
        UserError: a color table there says otherwise.
    """
    path = folder / COLOR_TABLE_NAME
    if path.is_file() and (names := read_color_table(path)) != preset.organ_names:
        raise UserError(
            f"{path}: label maps in this folder have the organs {', '.join(names)}, those to be written "
            f"{', '.join(preset.organ_names)}; choose another folder"
        )


def write_color_table(folder: Path, preset: Preset) -> None:
    """Write a 3D Slicer color table beside label maps: one line `value name R G B A` per organ."""
    lines = ["# Color table: value name R G B A", "0 background 0 0 0 0"]
    lines += [f"{i} {organ.name} {' '.join(map(str, organ.color))} 255" for i, organ in enumerate(preset.organs, 1)]
    write_text(folder / COLOR_TABLE_NAME, "\n".join(lines) + "\n")


def read_color_table(path: Path) -> tuple[str, ...]:
    """Organ names of labels 1, 2, ... in a color table.

    Raises:
        UserError: the file is no color table of consecutive labels from 0.
    """
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    entries = [words for words in lines if words]
    if [words[0] for words in entries] != [str(value) for value in range(len(entries))]:
        raise UserError(f"{path}: expected lines `value name R G B A` with values 0, 1, 2, ...")
    return tuple(words[1] for words in entries[1:])


def segment_metadata(preset: Preset) -> dict[str, str]:
    """Header fields by which 3D Slicer names and colors the segments of an NRRD label map."""
    fields = {"Segmentation_MasterRepresentation": "Binary labelmap"}
    for i, organ in enumerate(preset.organs):
        fields[f"Segment{i}_ID"] = organ.name
        fields[f"Segment{i}_Name"] = organ.name
        fields[f"Segment{i}_LabelValue"] = str(i + 1)
        fields[f"Segment{i}_Layer"] = "0"
        fields[f"Segment{i}_Color"] = " ".join(f"{channel / 255:.4f}" for channel in organ.color)
    return fields
