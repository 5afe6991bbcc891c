"""Tests mirror the packages. This file makes `python -m tests.soak_training` run beside another installed `tests`."""
