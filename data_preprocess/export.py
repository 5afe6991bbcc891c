"""Raw data set to NIfTI in its original grid.

    python -m data_preprocess.export --source openkbp --input RAW --output DIR

Writes `images/<id>.nii.gz`, `labels/<id>.nii.gz` and a color table, for inference, evaluation and any viewer.
"""

import sys
from functools import partial
from pathlib import Path

from data_preprocess.label_map import merge_masks
from data_preprocess.raw_cases import find_raw_cases, preset_name, raw_arguments, run_all
from data_preprocess.sources import SOURCES, RawCase, RawReference
from utils.command_line import report_failures, run_main
from utils.organs import write_color_table
from utils.preset import Preset, load_preset
from utils.volume_io import Volume, write_volume


def export_case(raw: RawCase, preset: Preset, folder: Path) -> None:
    """Write the CT and its label map as `folder`/images/<id>.nii.gz and `folder`/labels/<id>.nii.gz."""
    name = f"{raw.case_id}.nii.gz"
    label = merge_masks(raw.masks, preset, raw.volume.array.shape)
    write_volume(folder / "labels" / name, Volume(array=label, geometry=raw.volume.geometry))
    write_volume(folder / "images" / name, raw.volume)


def _export(reference: RawReference, source: str, preset: Preset, folder: Path) -> None:
    if not (folder / "images" / f"{reference.case_id}.nii.gz").is_file():
        export_case(SOURCES[source].read_case(reference, preset), preset, folder)


def main(argv: list[str] | None = None) -> int:
    """Export every case; those that are there already are skipped."""
    arguments = raw_arguments(__doc__).parse_args(argv)
    preset = load_preset(preset_name(arguments), arguments.set)
    references = find_raw_cases(arguments)
    write_color_table(arguments.output / "labels", preset)
    task = partial(_export, source=arguments.source, preset=preset, folder=arguments.output)
    return report_failures(run_all(task, references, arguments.workers), len(references))


if __name__ == "__main__":
    sys.exit(run_main(main))
