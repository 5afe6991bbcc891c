"""Segment CTs and write each label map as structure sets with three kinds of contours, to compare readers.

    python -m benchmarks.rtstruct_contours --input nifti/images/pt_207.nii.gz --output contours --spacing 3 1.2 1.2
    readers/bin/python benchmarks/rtstruct_readers.py --input contours

The second command needs an environment with the readers: `rt-utils platipy dcmrtstruct2nii "pydicom<3"` of pip, and the
program plastimatch.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np

from benchmarks.resample_cts import at_spacing
from data_preprocess.scans import list_scans, transform_ct
from inference import segment
from models.pretrained import Model, load_pretrained
from tests.dicom_files import ct_slices, save_all
from utils.imaging.contours import trace_outlines
from utils.imaging.polygons import trace_polygons
from utils.io.dicom import rtstruct
from utils.io.dicom.series import find_series, read_ct
from utils.io.own_files import require_own
from utils.io.volumes import Volume, to_lps, write_volume
from utils.runtime.command_line import run_main

Trace = Callable[[np.ndarray, np.ndarray], list[np.ndarray]]
KINDS: dict[str, Trace] = {
    "interpolated": trace_polygons,
    "halfway": lambda mask, _: trace_polygons(mask, np.where(mask, 1.0, -1.0)),
    "edges": lambda mask, _: [outline - 0.5 for outline in trace_outlines(mask)],
}


def write_case(folder: Path, ct: Volume, model: Model) -> None:
    """Write a CT as DICOM, its label map, and a structure set for each kind of contours."""
    save_all(ct_slices(ct), folder / "ct")
    series = read_ct(find_series(folder / "ct")[0])
    seen = transform_ct(series.volume, model.preset.grid)
    label, prediction = segment(seen, model)
    write_volume(folder / "label.nii.gz", label)
    margin = partial(seen.transform.invert_margin, prediction.probabilities)
    description = model.describe("preset")
    for kind, trace in KINDS.items():
        with patch.object(rtstruct, "trace_polygons", trace):
            rtstruct.write_rtstruct(folder / f"{kind}.dcm", label.array, margin, series, model.preset, description)


def main(argv: list[str] | None = None) -> int:
    """Write every CT of the input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", type=Path, required=True, help="as for inference.py")
    parser.add_argument("--output", type=Path, required=True, help="folder with a folder for each CT")
    parser.add_argument(
        "--spacing", type=float, nargs=3, metavar=("Z", "Y", "X"), help="in mm; by default the CT's own"
    )
    arguments = parser.parse_args(argv)
    scans = list_scans(arguments.input)
    require_own(arguments.output / scan.case_id for scan in scans)
    model = load_pretrained("openkbp")
    for scan in scans:
        ct = to_lps(scan.read().volume)
        ct = Volume(array=ct.array.astype(np.int16), geometry=ct.geometry)
        ct = at_spacing(ct, tuple(arguments.spacing)) if arguments.spacing else ct
        write_case(arguments.output / scan.case_id, ct, model)
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
