"""The version of this program, which its outputs name."""

VERSION = "0.3.dev"
