"""Tests mirror the packages; `python -m tests.soak_training` needs this file, since other packages install a `tests`."""
