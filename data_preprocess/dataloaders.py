"""The data of a training run: preset, splits, cases and data sets."""

from data_preprocess.augment import padded_patch_size
from data_preprocess.cases import check_compatible, read_dataset
from data_preprocess.dataset import CaseDataset, CaseFolder, ShapeDataset
from data_preprocess.splits import Splits, leave_out_fold, read_splits, require_patients_apart, validate_splits
from utils.config.preset import Preset, load_preset, preset_from_table, preset_to_table
from utils.errors import UserError
from utils.imaging.arrangement import Arrangement
from utils.runtime.command_line import Shard
from utils.training.run import TrainingOptions, TrainingRun
from utils.training.run_log import read_configuration
from utils.training.stage import TrainingCases


def open_training_cases(run: TrainingRun) -> TrainingCases:
    """Find the preset and the splits of a run, and open its training and validation cases.

    Raises:
        UserError: the preset does not fit the cases, or cases, splits or the other run's config.json are unreadable.
    """
    preset, splits = training_preset(run.options), choose_splits(run)
    train, val = (CaseFolder(run.options.cases, split, preset.organ_names, splits=splits) for split in ("train", "val"))
    arrangement = Arrangement.of(preset.organ_names, train.centers_mm())
    return TrainingCases(preset=preset, splits=splits, train=train, val=val, arrangement=arrangement)


def training_preset(options: TrainingOptions) -> Preset:
    """The preset of `--config-from`, else of `--preset`, else the one stored with the cases; with `--set` applied.

    Raises:
        UserError: it does not fit the cases.
    """
    prepared = read_dataset(options.cases)
    if options.config_from is not None:
        table, source = read_configuration(options.config_from)["preset"], f"{options.config_from}/config.json"
        chosen = preset_from_table(table, source=source, overrides=options.set)
    elif options.preset is not None:
        chosen = load_preset(options.preset, options.set)
    else:
        source = f"{options.cases}/dataset.json"
        chosen = preset_from_table(preset_to_table(prepared), source=source, overrides=options.set)
    check_compatible(chosen, prepared, options.cases)
    return chosen


def choose_splits(run: TrainingRun) -> Splits:
    """The splits of a run; a resumed run keeps its own, even if the folder of cases has changed.

    Raises:
        UserError: splits.json is missing or damaged, a patient is in two splits, there are fewer patients than folds,
            or the resumed run is of another fold.
    """
    options = run.options
    folder = options.run_dir if run.is_resuming else options.config_from
    if folder is not None:
        recorded = read_configuration(folder)
        fold = recorded["options"].get("cross_validation")
        if options.cross_validation == fold or (run.is_resuming and options.cross_validation is None):
            splits = validate_splits(recorded["splits"], folder / "config.json")
            if not run.is_resuming:
                require_patients_apart(splits, options.cases, folder / "config.json")
            return splits
        if run.is_resuming:
            raise UserError(
                f"{folder}: is a run of --cross-validation {fold}, not {options.cross_validation}; give each fold its "
                "own --run-dir"
            )
    splits = read_splits(options.cases)
    if options.cross_validation is None:
        return splits
    return leave_out_fold(options.cases, splits, Shard.parse(options.cross_validation))


def crop_dataset(cases: CaseFolder, preset: Preset, seed: int, *, of_small_organs: bool = False) -> CaseDataset:
    """Training crops, with the margin that augmentation needs; of all organs or of contoured small ones only.

    Only crops of all organs, which train S-Net, have pseudo-labels.
    """
    sampling, grid = preset.sampling, preset.grid
    organs, fraction = range(len(preset.organs)), sampling.organ_fraction
    if of_small_organs:
        organs, fraction = preset.small_organs, sampling.small_organ_fraction
    size = padded_patch_size(grid.crop_size_vox, preset.augmentation, grid.spacing_zyx_mm)
    return CaseDataset(
        cases,
        preset,
        box_size_vox=size,
        organs=organs,
        organ_fraction=fraction,
        seed=seed,
        with_pseudo_labels=not of_small_organs,
    )


def shape_dataset(cases: CaseFolder, preset: Preset, seed: int) -> ShapeDataset:
    """Masks of small organs, with the margin that augmentation needs."""
    size = padded_patch_size(preset.grid.roi_size_vox, preset.augmentation, preset.grid.spacing_zyx_mm)
    return ShapeDataset(cases, preset, box_size_vox=size, seed=seed)
