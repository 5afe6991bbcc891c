"""utils/runtime/console.py: closed streams end nothing, and long work shows its progress without a terminal."""

import io
import logging
import os
import subprocess
import sys
import warnings

import pytest

from tests.posix import BASH_ONLY
from utils.runtime import console
from utils.runtime.command_line import run_main
from utils.runtime.console import Progress, show_progress, silenced

SCRIPT = """
import contextlib, logging, os, sys, time
from utils.runtime.command_line import run_main
from utils.runtime.console import show_progress

class Terminal:
    def __init__(self, stream): self.stream = stream
    def __getattr__(self, name): return getattr(self.stream, name)
    def isatty(self): return True

def main(argv):
    sys.stderr = Terminal(sys.stderr)
    time.sleep(0.2)  # the reader is gone
    with open(argv[0], 'w') as file:
        with contextlib.suppress(OSError):
            os.write(2, b'a C library speaks')
        for _ in show_progress(range(50), 50, 'case'):
            time.sleep(0.002)
            logging.getLogger('a').info('a line')
            print('a long table ' * 200)
        print('a warning', file=sys.stderr)
        file.write('complete')
    return 3

sys.exit(run_main(main, sys.argv[1:]))
"""


@BASH_ONLY
@pytest.mark.slow
@pytest.mark.parametrize("closed", ["2>&-", ">&-", "<&- >&- 2>&-", "| true", "2>&1 | true", "2>&1 | head -1"])
def test_a_command_ends_as_if_someone_had_listened(closed, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT, encoding="utf-8")
    made = tmp_path / "made.txt"
    command = f"{sys.executable} {tmp_path / 'script.py'} {made} {closed}; exit ${{PIPESTATUS[0]}}"
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "PYTHONUNBUFFERED": ""}
    ended = subprocess.run(["bash", "-c", command], capture_output=True, encoding="utf-8", env=environment, check=False)
    assert ended.returncode == 3, ended.stderr
    assert made.read_text(encoding="utf-8") == "complete"
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def pipe_without_reader():
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", encoding="utf-8")


def test_what_is_written_after_the_reader_has_gone_is_dropped(monkeypatch):
    streams = [pipe_without_reader(), pipe_without_reader()]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    streams[1].isatty = lambda: True

    def main(argv):
        for _ in show_progress(range(3), 3, "case"):
            print("a long table " * 2000)
        print("a warning", file=sys.stderr, flush=True)
        return 3

    assert run_main(main, []) == 3
    for stream in streams:
        stream.close()  # nothing is left in it that could not be written


def test_a_program_without_streams_is_none_the_worse(monkeypatch, tmp_path):
    for name in ("stdin", "stdout", "stderr"):  # as pythonw does
        monkeypatch.setattr(sys, name, None)

    def main(argv):
        print("a table")
        print("a warning", file=sys.stderr)
        return sum(show_progress(range(3), 3, "case"))

    assert run_main(main, []) == 3


@pytest.mark.parametrize(
    ("encoding", "shown"), [("cp1252", "M\xfcller \\u60a3 \xb1 \\u2264"), ("cp437", "M\xfcller \\u60a3 \xb1 \u2264")]
)
def test_characters_that_a_console_cannot_show_are_escaped(encoding, shown, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding=encoding, errors="strict"))
    assert run_main(lambda argv: print("Müller 患 ± ≤"), []) == 0
    assert written.getvalue().decode(encoding).strip() == shown


def test_a_full_disk_is_still_an_error(monkeypatch, capsys):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stdout", Full())
    assert run_main(lambda argv: print("a table"), []) == 2
    assert capsys.readouterr().err == "error: No space left on device; free some space or choose another disk\n"


def test_without_a_terminal_a_line_a_minute_says_what_is_done_and_left(monkeypatch, caplog):
    now = iter([0.0, *(30.0 * i for i in range(1, 9))])
    monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
    asked = []

    def details():
        asked.append(1)
        return "loss 0.5"

    with caplog.at_level(logging.INFO), Progress(100, "step", "backbone", done=92) as progress:
        for _ in range(8):
            progress.update(details)
    assert caplog.messages == [
        f"backbone: {92 + done} of 100 steps, {when}, loss 0.5"
        for done, when in ((2, "0:03:00 left"), (4, "0:02:00 left"), (6, "0:01:00 left"), (8, "done in 0:04:00"))
    ]
    assert len(asked) == 4


def test_short_work_and_other_ranks_log_nothing(monkeypatch, caplog):
    with caplog.at_level(logging.INFO):
        assert list(show_progress("abc", 3, "case")) == ["a", "b", "c"]
        monkeypatch.setattr(console, "LOG_INTERVAL_S", 0.0)
        Progress(3, "step", is_shown=False).update()
        assert caplog.messages == []
        Progress(3, "step").update()
    assert caplog.messages == ["1 of 3 steps, 0:00:00 left"]


def test_a_terminal_shows_a_bar_and_no_lines(monkeypatch, caplog):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(console, "LOG_INTERVAL_S", 0.0)
    with caplog.at_level(logging.INFO), Progress(2, "step", "backbone") as progress:
        progress.update(lambda: "loss 0.5")
        progress.update(lambda: "loss 0.25")
    assert "backbone: 100%" in terminal.getvalue()
    assert "loss 0.25" in terminal.getvalue()
    assert caplog.messages == []


def test_a_silenced_library_speaks_again_afterwards(caplog):
    library = logging.getLogger("chatty")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with silenced("chatty"):
            library.error("lost")
            warnings.warn("lost", stacklevel=1)
        library.error("kept")
        warnings.warn("kept", stacklevel=1)
    assert caplog.messages == ["kept"]
    assert [str(warning.message) for warning in seen] == ["kept"]
