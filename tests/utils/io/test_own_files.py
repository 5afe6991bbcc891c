"""utils/io/own_files.py: a file without a record is somebody else's."""

import pytest

from tests.posix import LINKS_ONLY
from utils.errors import UserError
from utils.io.own_files import checksum, files_at, read_record, require_own


def test_checksum_of_a_known_file(tmp_path):
    (tmp_path / "a").write_text("abc", encoding="utf-8")
    assert checksum(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


@pytest.mark.parametrize("text", ["{", "[]", '{"a": 1}', "\xff"])
def test_another_programs_file_is_no_record(text, tmp_path):
    path = tmp_path / "record.json"
    assert read_record(path, ["a", "b"]) is None
    path.write_text(text, encoding="latin-1")
    assert read_record(path, ["a", "b"]) is None
    path.write_text('{"a": 1, "b": 2, "c": 3}', encoding="utf-8")
    assert read_record(path, ["a", "b"]) == {"a": 1, "b": 2, "c": 3}


def test_files_of_others_are_named(tmp_path):
    for name in ("own.txt", "folder/own.txt", "folder/below/other.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("", encoding="utf-8")
    own = {tmp_path / "own.txt", tmp_path / "folder" / "own.txt"}
    require_own([tmp_path / "own.txt", tmp_path / "new.txt", tmp_path / "folder" / "own.txt"], own)
    with pytest.raises(UserError, match=r"folder.below.other\.txt: not written by this command"):
        require_own([tmp_path / "own.txt", tmp_path / "folder"], own)
    with pytest.raises(UserError, match=r"own\.txt: not written by this command"):
        require_own([tmp_path / "own.txt"])


@LINKS_ONLY
def test_a_link_is_a_file_wherever_it_leads(tmp_path):
    (tmp_path / "links").mkdir()
    for name, target in (("broken", "nowhere"), ("loop", "../links")):
        (tmp_path / "links" / name).symlink_to(target)
    assert files_at(tmp_path / "links") == [tmp_path / "links" / "broken", tmp_path / "links" / "loop"]
    assert files_at(tmp_path / "links" / "broken") == [tmp_path / "links" / "broken"]
