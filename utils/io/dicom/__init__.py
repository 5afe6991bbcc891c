"""DICOM: CT series and their slices, structure sets, segmentations."""
