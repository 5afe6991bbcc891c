"""What FocusNet's networks minimise: segmentation, localization and shape losses."""
