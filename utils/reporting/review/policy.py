"""What a page of the program may load: nothing but the script and the style in it."""

import base64
import hashlib


def source_hash(text: str) -> str:
    """The source expression by which a content security policy allows exactly this inline script or style."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
