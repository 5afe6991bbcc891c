"""Names that come from files and become paths."""

import re

SAFE = re.compile(r"[^\x00-\x1f/\\]+")


def require_safe_name(name: object, source: object) -> str:
    """Check that a name stays in the folder that it is looked up in.

    Args:
        name: of a case, from a file that anybody may have written.
        source: what to name in the message.

    Raises:
        ValueError: it is no text, empty, hidden, or holds a slash, a backslash or a control character.
    """
    if not isinstance(name, str) or not SAFE.fullmatch(name) or name.startswith("."):
        raise ValueError(
            f"{source}: {name!r} is no name of a case: expected text without slashes that does not begin with a dot"
        )
    return name
