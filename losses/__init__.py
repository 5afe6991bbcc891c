"""The losses of FocusNet's networks: segmentation, localization and shape."""
