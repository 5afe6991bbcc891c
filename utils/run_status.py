"""status.json: how a run ended, for the job script that decides whether to queue it again."""

from pathlib import Path
from typing import Literal

from utils.files import write_json


def write_status(
    folder: Path, state: Literal["running", "stopped", "finished"], *, step: int, total_steps: int, reason: str = ""
) -> None:
    """Record how far a run is; one that was killed stays "running".

    Args:
        folder: the run folder.
        state: "stopped" means asked to stop, with everything saved.
        step: steps done.
        total_steps: of the run.
        reason: why it stopped.
    """
    write_json(folder / "status.json", {"state": state, "step": step, "total_steps": total_steps, "reason": reason})
