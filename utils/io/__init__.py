"""Files: volumes, DICOM, label maps, checkpoints."""
