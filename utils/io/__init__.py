"""Files: volumes, DICOM, structure sets, label maps, checkpoints."""
