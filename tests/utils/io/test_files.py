"""utils/io/files.py: files are complete or absent; names cannot lead elsewhere."""

import errno
import os

import pytest

from tests.posix import ANY_NAME, LINKS_ONLY, NOT_UTF8, held_by_another_program
from utils.config.file_names import is_portable_name
from utils.errors import UserError, user_message
from utils.io import files
from utils.io.files import (
    FileInUseError,
    atomic_write,
    check_folder,
    files_below,
    folders_below,
    fsync_dir,
    make_folder,
    move_all,
    printable,
    read_json,
    read_text,
    remove_file,
    replace_file,
    staging_folder,
    validate_file_name,
    write_json,
    write_text,
)


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_complete_with_its_folder(tmp_path):
    path = tmp_path / "new" / "a.json"
    with atomic_write(path) as partial:
        partial.write_text("half", encoding="utf-8")
        assert not path.exists()
        partial.write_text("whole", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "whole"
    assert names_in(path.parent) == ["a.json"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_in_the_middle_leaves_the_old_file(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old", encoding="utf-8")

    def write_half():
        with atomic_write(path) as partial:
            partial.write_text("half of the n", encoding="utf-8")
            raise failure

    with pytest.raises(failure):
        write_half()
    assert path.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_a_folder_with_files_is_not_replaced(is_folder, tmp_path):
    path = tmp_path / "case"
    path.mkdir()
    (path / "old.npy").write_text("old", encoding="utf-8")

    def write():
        with atomic_write(path) as partial:
            partial.mkdir() if is_folder else partial.write_text("new", encoding="utf-8")

    with pytest.raises(OSError, match="case"):
        write()
    assert names_in(path) == ["old.npy"]
    assert names_in(tmp_path) == ["case"]


def write_over(path):
    with atomic_write(path) as partial:
        partial.write_text("new", encoding="utf-8")


def test_a_file_that_is_open_for_a_moment_is_waited_for(tmp_path):
    path = tmp_path / "a.json"
    for change in (write_over, remove_file):
        path.write_text("old", encoding="utf-8")
        with held_by_another_program([path], num_attempts=2):
            change(path)
        assert names_in(tmp_path) == (["a.json"] if change is write_over else [])


@pytest.mark.parametrize("change", [write_over, remove_file, lambda path: replace_file(path, path.with_name("b"))])
def test_a_file_that_stays_open_is_named_and_unchanged(change, tmp_path):
    path = tmp_path / "a.json"
    path.write_text("old", encoding="utf-8")
    message = r"a\.json: cannot be replaced or deleted \(Access is denied\): another program has it open.*run again"
    with held_by_another_program([path]), pytest.raises(FileInUseError, match=message):
        change(path)
    assert path.read_text(encoding="utf-8") == "old"
    assert names_in(tmp_path) == ["a.json"]


def test_a_temporary_file_that_cannot_be_removed_hides_no_error(tmp_path, caplog):
    partial = tmp_path / f".a.txt.{os.getpid()}.partial"

    def write_half():
        with atomic_write(tmp_path / "a.txt") as path:
            path.write_text("half", encoding="utf-8")
            raise KeyError("a bug")

    with held_by_another_program([partial]), pytest.raises(KeyError, match="a bug"):
        write_half()
    assert "partial: cannot be replaced or deleted" in caplog.text


@pytest.mark.parametrize("held", ["new_2", "old_2"])
def test_all_files_are_moved_or_none(held, tmp_path):
    new, old = [[tmp_path / f"{age}_{number}" for number in range(4)] for age in ("new", "old")]
    (new[0] / "inner").mkdir(parents=True)
    old[0].mkdir()  # an empty folder is replaced
    for path in (*new[1:], *old[1:]):
        path.write_text(path.name, encoding="utf-8")
    moves = [(path, tmp_path / f"aside_{path.name}") for path in old] + list(zip(new, old, strict=True))
    before = names_in(tmp_path)
    with held_by_another_program([tmp_path / held]), pytest.raises(FileInUseError, match=f"{held}.*: cannot be"):
        move_all(moves)
    assert names_in(tmp_path) == before
    assert all(path.read_text(encoding="utf-8") == path.name for path in (*new[1:], *old[1:]))
    move_all(moves)
    assert (old[0] / "inner").is_dir()
    assert [path.read_text(encoding="utf-8") for path in old[1:]] == ["new_1", "new_2", "new_3"]


def test_a_system_that_opens_no_folders_cannot_wait_for_them(tmp_path, monkeypatch):
    def refuse(path, flags):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    fsync_dir(tmp_path)


def test_lines_end_alike_on_all_systems(tmp_path):
    write_text(tmp_path / "a.csv", "a,b\n1,2\n")
    assert (tmp_path / "a.csv").read_bytes() == b"a,b\n1,2\n"


def test_files_are_moved_out_of_a_staging_folder_and_the_rest_is_removed(tmp_path):
    with staging_folder(tmp_path / "new" / "p1") as folder:
        (folder / "half").mkdir()
        (folder / "a.txt").write_text("whole", encoding="utf-8")
        (folder / "a.txt").rename(tmp_path / "a.txt")
    assert names_in(tmp_path) == ["a.txt", "new"]
    assert names_in(tmp_path / "new") == []


@LINKS_ONLY
def test_files_below_a_folder_are_found_once_and_hidden_ones_are_not(tmp_path):
    for name in ("b/two.txt", "b/.hidden.txt", ".hidden/three.txt", "one.txt", "b/c/four.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    for name, target in (("a", "b"), ("b/c/top", "../.."), ("gone", "nowhere")):
        (tmp_path / name).symlink_to(target, target_is_directory=True)
    assert folders_below(tmp_path) == [tmp_path, tmp_path / "b", tmp_path / "b" / "c"]
    assert files_below(tmp_path) == [tmp_path / name for name in ("b/c/four.txt", "b/two.txt", "gone", "one.txt")]


@pytest.mark.parametrize("place", ["file", "file/below", "file/a/b"])
def test_a_file_in_the_place_of_a_folder_is_named(place, tmp_path):
    (tmp_path / "file").write_text("", encoding="utf-8")
    for check in (check_folder, make_folder):
        with pytest.raises(UserError, match=r"file: expected a folder, but a file is in its place; choose another"):
            check(tmp_path / place)
    check_folder(tmp_path / "new" / "folder")
    assert names_in(tmp_path) == ["file"]


def test_a_failure_in_a_folder_leaves_nothing(tmp_path):
    def write_half():
        with atomic_write(tmp_path / "case") as partial:
            partial.mkdir()
            (partial / "image.npy").write_text("half", encoding="utf-8")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_half()
    assert names_in(tmp_path) == []


def test_the_temporary_name_keeps_the_suffix_that_writers_look_at(tmp_path):
    with atomic_write(tmp_path / "a.nii.gz", suffix=".nii.gz") as partial:
        assert partial.name.endswith(".nii.gz")
        partial.write_text("x", encoding="utf-8")


def test_json_round_trip_and_errors(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"größe": [1, 2.5], "none": None})
    assert read_json(path) == {"größe": [1, 2.5], "none": None}
    with pytest.raises(ValueError, match=r"b\.json: no such file"):
        read_json(tmp_path / "b.json")
    write_text(path, '{"a": 1')
    with pytest.raises(ValueError, match=r"a\.json: is not valid JSON"):
        read_json(path)
    write_text(path, "[1]")
    with pytest.raises(ValueError, match=r"a\.json: expected a JSON object, got a list"):
        read_json(path)


SAFE = ["pt_1", "HN 042", "ünï", "a.b", "0522c0001", "-1", "#1 [a] 'b'", "患者"]
UNSAFE = ["", " ", ".", "..", "../a", "/a", "a/b", "a/../b", "a\\b", "a\\..\\b", "a\x00b", "a\nb", ".a", None, 3]


@pytest.mark.parametrize("name", SAFE)
def test_names_of_files_are_taken_as_they_are(name):
    assert validate_file_name(name, "splits.json") == name


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids a colon in file names")
def test_a_ct_named_by_the_time_of_day_is_taken():
    assert validate_file_name("2024-01-31T12:30", "case id") == "2024-01-31T12:30"


@pytest.mark.parametrize("name", [*UNSAFE, "12:30", "a<b", "pt.", "pt ", "NUL", "com1.nii.gz"])
def test_windows_refuses_more_names(name, monkeypatch):
    monkeypatch.setattr(files, "IS_ALLOWED", is_portable_name)
    with pytest.raises(UserError, match=r"splits\.json: .* cannot name a file; rename it"):
        validate_file_name(name, "splits.json")


@pytest.mark.parametrize("name", UNSAFE)
def test_names_that_lead_elsewhere_are_refused(name):
    with pytest.raises(UserError, match=r"splits\.json: .* cannot name a file; rename it"):
        validate_file_name(name, "splits.json")


@pytest.mark.parametrize("filename", [None, "partial"])
def test_a_failed_write_names_the_file_that_the_user_knows(filename, tmp_path):
    path = tmp_path / "metrics.csv"
    with pytest.raises(OSError, match="No space left") as caught, atomic_write(path) as partial:
        raise OSError(errno.ENOSPC, "No space left on device", *([partial] if filename else []))
    assert user_message(caught.value) == f"{path}: No space left on device; free some space or choose another disk"


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf{}")
    assert read_json(tmp_path / "a.json") == {}


@ANY_NAME
def test_bytes_that_are_not_utf8_are_printed_as_numbers(tmp_path):
    assert printable(NOT_UTF8) == "M%FCller"
    assert printable("Müller 患者 100%") == "Müller 患者 100%"
    write_text(tmp_path / "a.txt", f"{NOT_UTF8}, Müller")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "M%FCller, Müller"
    write_json(tmp_path / "a.json", {"path": NOT_UTF8})
    assert read_json(tmp_path / "a.json") == {"path": NOT_UTF8}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_with_a_byte_order_mark_is_read(encoding, tmp_path):
    (tmp_path / "a.txt").write_text("Müller\n患者", encoding=encoding, newline="")
    assert read_text(tmp_path / "a.txt") == "Müller\n患者"


def test_what_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    with pytest.raises(UserError, match=r"a\.txt: expected a text file, got another format"):
        read_text(tmp_path / "a.txt")
