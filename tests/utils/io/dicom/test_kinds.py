"""utils/io/dicom/kinds.py: what is a slice, by the ImageTypes that scanners and workstations write."""

import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    MultiFrameTrueColorSecondaryCaptureImageStorage,
    RawDataStorage,
    SecondaryCaptureImageStorage,
)

from utils.io.dicom.kinds import count_kinds, unlike_slice


def image(image_type, sop_class=CTImageStorage, **fields):
    dataset = Dataset()
    dataset.SOPClassUID, dataset.ImageType = sop_class, image_type
    for key, value in fields.items():
        setattr(dataset, key, value)
    return dataset


@pytest.mark.parametrize(
    "image_type",
    [
        r"ORIGINAL\PRIMARY\AXIAL",
        r"ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SPI",
        r"ORIGINAL\PRIMARY\AXIAL\CT_SOM5 SEQ",
        r"ORIGINAL\PRIMARY\AXIAL\HELIX",
        r"DERIVED\PRIMARY\AXIAL\CT_SOM7 SPI DUAL\STD\SNRG\DET_AB",
        r"DERIVED\SECONDARY\AXIAL",
        r"DERIVED\PRIMARY\AXIAL\JP2K LOSSY 6:1",
        r"ORIGINAL\PRIMARY\VOLUME\NONE",
        r"ORIGINAL\SECONDARY\OTHER",
        r"DERIVED\SECONDARY",
        "",
    ],
)
def test_slices_of_scanners_and_planning_systems_are_slices(image_type):
    assert unlike_slice(image(image_type.split("\\"))) is None


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        (r"ORIGINAL\PRIMARY\LOCALIZER", "localizer"),
        (r"ORIGINAL\PRIMARY\LOCALIZER\CT_SOM5 TOP", "localizer"),
        (r"DERIVED\SECONDARY\REFORMATTED\AVERAGE", "derived image (REFORMATTED)"),
        (r"DERIVED\SECONDARY\PROJECTION IMAGE\CSA MPR\\CSAPARALLEL", "derived image (PROJECTION)"),
        (r"DERIVED\SECONDARY\MPR\CSA MPR THICK", "derived image (MPR)"),
        (r"DERIVED\PRIMARY\AXIAL\CT_SOM5 MPR", "derived image (MPR)"),
        (r"DERIVED\PRIMARY\AXIAL\CT_SOM5 MIP", "derived image (MIP)"),
        (r"DERIVED\PRIMARY\VOLUME\MAX_IP", "derived image (MAX IP)"),
        (r"DERIVED\SECONDARY\OTHER\CSA RESAMPLED", "derived image (RESAMPLED)"),
        (r"DERIVED\SECONDARY\OTHER\CT_SOM5 PROT", "derived image (PROT)"),
        (r"DERIVED\SECONDARY\SCREEN SAVE", "derived image (SCREEN SAVE)"),
        (r"DERIVED\SECONDARY\DOSE_INFO", "derived image (DOSE)"),
    ],
)
def test_other_images_are_none(image_type, kind):
    assert unlike_slice(image(image_type.split("\\"))) == kind


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"sop_class": SecondaryCaptureImageStorage}, "secondary capture"),
        ({"sop_class": MultiFrameTrueColorSecondaryCaptureImageStorage}, "secondary capture"),
        ({"sop_class": RawDataStorage}, "object of another class than CT"),
        ({"SamplesPerPixel": 3}, "color image"),
        ({"PhotometricInterpretation": "RGB"}, "color image"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "color image"),
        ({"sop_class": EnhancedCTImageStorage, "VolumeBasedCalculationTechnique": "CURVED_MPR"}, "derived image (MPR)"),
        ({"PhotometricInterpretation": "MONOCHROME1", "SamplesPerPixel": 1}, None),
        ({"sop_class": EnhancedCTImageStorage, "VolumeBasedCalculationTechnique": "NONE"}, None),
    ],
)
def test_class_color_and_technique_count(fields, kind):
    assert unlike_slice(image(["ORIGINAL", "PRIMARY", "AXIAL"], **fields)) == kind


def test_kinds_are_counted():
    kinds = ["localizer", "derived image (MPR)", "localizer"]
    assert count_kinds(kinds) == "2 localizer(s), 1 derived image (MPR)"
