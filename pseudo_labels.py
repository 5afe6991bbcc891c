"""Give organs without contour a pseudo-label where a trained model is sure of them.

python pseudo_labels.py --cases cases --output pseudo-cases

Writes a copy of prepared cases. In those of the train split, organs without contour are labeled where the model is sure
of them, and left open where it is not. Contours stay as they are, and nothing is validated against a pseudo-label.
"""

import argparse
import logging
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from data_preprocess.cases import (
    DATASET_NAME,
    PSEUDO_NAME,
    Case,
    check_compatible,
    finished_case,
    measure_organs,
    open_case,
    read_case_infos,
    read_dataset,
)
from data_preprocess.prepare import finish
from data_preprocess.pseudo_labels import PseudoRule, UsualVolumes, agreement, doubts, pseudo_label
from data_preprocess.splits import read_splits
from models.confidence import organ_confidences
from models.pretrained import Model, load_model, published_checkpoint
from utils.config.preset import Preset
from utils.errors import UserError
from utils.imaging.masks import UNKNOWN_LABEL
from utils.io.files import atomic_write, check_folder, read_json, remove_partials, write_json
from utils.io.own_files import read_record, require_own
from utils.reporting.overlay import render_case, save_png
from utils.reporting.tables import Table, to_text
from utils.runtime.command_line import run_main
from utils.runtime.console import show_progress
from utils.runtime.device import Precision, choose_compute

RECORD_NAME, SPLITS_NAME, FOUND_NAME = "pseudo_labels.json", "splits.json", "pseudo.json"
SCORES = ("precision", "recall", "missed")

logger = logging.getLogger(__name__)


def fill_case(case: Case, model: Model, volumes: UsualVolumes, rule: PseudoRule, target: Path) -> None:
    """Copy a case to the folder `target`, with pseudo-labels of the organs that have no contour.

    pseudo.json there says of every organ why it has none, or, for an organ with a contour, how well the pseudo-label
    that it would have got agrees with the contour.

    Args:
        case: of the train split.
        model: predicts the organs.
        volumes: of the contoured organs.
        rule: when and where a prediction stands in for a contour.
        target: does not exist.
    """
    image, inside = (torch.from_numpy(np.array(array)) for array in (case.image, case.inside_fov))
    prediction = model.predictor.predict(image, inside)
    probabilities, spacing_mm = prediction.probabilities.cpu().numpy(), np.array(case.info.spacing_zyx_mm)
    doubt_of = doubts(
        prediction.label.cpu().numpy(),
        organ_confidences(prediction, model, lambda point: tuple((point * spacing_mm)[::-1].tolist())),
        {name: tuple((organ.center_vox * spacing_mm).tolist()) for name, organ in case.info.organs.items()},
        preset=model.preset,
        arrangement=model.arrangement,
        volumes=volumes,
        rule=rule,
    )
    label, found, organs = np.asarray(case.label), {}, []
    for organ, (name, contoured) in enumerate(zip(case.organ_names, case.contoured, strict=True)):
        found[name] = {"contoured": contoured, "doubt": doubt_of[name]}
        if contoured and not doubt_of[name]:
            found[name] |= agreement(probabilities[organ + 1], label, organ, rule)._asdict()
        elif not doubt_of[name]:
            organs.append(organ)
    write_filled(case, pseudo_label(probabilities, label, organs, rule), organs, model.preset, found, target)


def write_filled(
    case: Case, pseudo: np.ndarray, organs: Sequence[int], preset: Preset, found: Mapping[str, Any], target: Path
) -> None:
    """Copy a case and add the pseudo-labels `pseudo` (D, H, W) of `organs`, and a preview that shows them."""
    names = case.organ_names
    filled = measure_organs(pseudo, names, [names[organ] for organ in organs])
    remove_partials(target)
    with atomic_write(target) as partial:
        partial.mkdir()
        for path in case.folder.iterdir():
            if path.name != PSEUDO_NAME:  # of an earlier model
                shutil.copyfile(path, partial / path.name)
        write_json(partial / "case.json", asdict(replace(case.info, pseudo_organs=filled)))
        write_json(partial / FOUND_NAME, found)
        if filled:
            np.save(partial / PSEUDO_NAME, pseudo)
            shown = np.where(case.label > 0, case.label, np.where(pseudo == UNKNOWN_LABEL, 0, pseudo))
            colors = [organ.color for organ in preset.organs]
            spacing = case.info.spacing_zyx_mm
            picture = render_case(np.asarray(case.image), shown, spacing_zyx_mm=spacing, colors=colors, names=names)
            save_png(partial / "preview.png", picture)


def summarize(found: Sequence[Mapping[str, Any]], preset: Preset) -> Table:
    """One row per organ: how many were filled, and how the rule does where there are contours.

    Args:
        found: the content of pseudo.json of every case.
        preset: names of the organs.
    """
    rows = []
    for name in preset.organ_names:
        missing = [case[name] for case in found if not case[name]["contoured"]]
        contoured = [case[name] for case in found if case[name]["contoured"]]
        passed = [organ for organ in contoured if not organ["doubt"]]
        medians = [f"{np.median([organ[score] for organ in passed]):.2f}" if passed else "-" for score in SCORES]
        filled = sum(not organ["doubt"] for organ in missing)
        rows.append([name, f"{filled} of {len(missing)}", f"{len(passed)} of {len(contoured)}", *medians])
    headings = ["organ", "pseudo-labels", "contours that pass", *(f"{score}, median" for score in SCORES)]
    return Table(headings=headings, rows=rows, notes=[])


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--cases", type=Path, required=True, help="folder of prepared cases")
    add("--output", type=Path, required=True, help="folder to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="best.pt of a training on the same organs and spacing")
    which.add_argument("--model", default="openkbp", help="a published model (default: %(default)s)")
    rule = PseudoRule()
    add("--high", type=float, default=rule.high, help="a voxel is labeled from this probability on (%(default)s)")
    add("--low", type=float, default=rule.low, help="a voxel is background below this probability (%(default)s)")
    add("--device", help="cpu, cuda, cuda:N or mps (Apple); by default a GPU if there is one")
    add("--precision", choices=get_args(Precision), help="by default bf16 where it is faster than fp32")
    arguments = parser.parse_args(argv)
    arguments.checkpoint = arguments.checkpoint or published_checkpoint(arguments.model)
    return arguments


def begin_output(output: Path, source: Path, record: dict[str, Any]) -> None:
    """Check that the output is new or was begun with the same model and rule, and begin it.

    Raises:
        UserError: it is another folder.
    """
    check_folder(output)
    begun = read_record(output / RECORD_NAME, record)
    if begun is None:
        require_own([output])
    elif begun != record:
        raise UserError(f"{output}: was written with another model, rule or other cases; choose another folder")
    for name in (DATASET_NAME, SPLITS_NAME):
        write_json(output / name, read_json(source / name))
    write_json(output / RECORD_NAME, record)


def main(argv: list[str] | None = None) -> int:
    """Copy the cases and fill those of the train split."""
    arguments = parse_arguments(argv)
    source, output = arguments.cases, arguments.output
    rule = PseudoRule(high=arguments.high, low=arguments.low)
    preset, training = read_dataset(source), read_splits(source)["train"]
    infos = read_case_infos(source)
    if masks_only := [info.case_id for info in infos if not info.has_image]:
        raise UserError(f"{source}: {masks_only[0]} has no CT; give a folder of cases that all have one")
    model = load_model(arguments.checkpoint, choose_compute(arguments.device, arguments.precision))
    check_compatible(model.preset, preset, source)
    begin_output(output, source, {"cases": str(source.resolve()), "checkpoint": model.sha256, "rule": asdict(rule)})
    volumes = UsualVolumes.of_cases([info for info in infos if info.case_id in training])
    for info in show_progress(infos, len(infos), "case"):
        if finished_case(output, info.case_id):
            continue
        if info.case_id in training:
            case = open_case(source / info.case_id, info, preset.organ_names)
            fill_case(case, model, volumes, rule, output / info.case_id)
        else:
            with atomic_write(output / info.case_id) as partial:
                shutil.copytree(source / info.case_id, partial)
    finish(output, preset, {})
    found = [read_json(output / case_id / FOUND_NAME) for case_id in training]
    logger.info(
        "pseudo-labels, and what they would be where there are contours:\n%s", to_text(summarize(found, preset))
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_main(main))
