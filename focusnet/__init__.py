"""FocusNet as pip installs it: `program`, beside this file, has the folders and scripts of a clone.

Packages with names as common as `utils` and `models` do not belong into site-packages. In Python:

    import focusnet

    focusnet.make_importable()
    from inference import segment_image
    from models.pretrained import load_pretrained
"""

import sys
from pathlib import Path


def make_importable() -> None:
    """Let Python find FocusNet's modules, before all others with the same names."""
    here = Path(__file__).resolve().parent
    program = here / "program"
    folder = str(program if program.is_dir() else here.parent)  # a clone has them beside this package
    if folder not in sys.path:
        sys.path.insert(0, folder)
