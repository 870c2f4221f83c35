"""Files: on the disk before they count, locked, and named by whatever bytes."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

import files
from errors import UserError

BYTES = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8


def test_a_file_is_on_the_disk_before_its_name_is_and_then_the_name_is(monkeypatch, tmp_path):
    """config.json above all: after a power cut an empty one would lose the run."""
    happened, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        happened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (happened.append("renamed"), replace(*paths)))
    files.write_atomically(tmp_path / "config.json", "{}")
    part, renamed, folder = happened
    assert part.name.startswith(".config.json.") and (renamed, folder) == ("renamed", tmp_path)


def test_a_name_that_is_not_utf8_is_escaped_in_a_text(tmp_path):
    path = tmp_path / BYTES
    files.write_atomically(path, f"{BYTES} é")
    assert path.read_text(encoding="utf-8") == r"caf\udce9 é"


def test_what_is_there_already_is_not_written_again(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_if_changed(path, "same")
    monkeypatch.setattr(files, "write_atomically", lambda path, content: path.write_text(f"{content} written"))
    for content, left in (("same", "same"), ("other", "other written")):
        files.write_if_changed(path, content)
        assert path.read_text() == left


def test_a_folder_that_cannot_be_written_is_refused_and_others_stay_empty(tmp_path, monkeypatch):
    files.refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"cannot write into .*No space left on device"):
        files.refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"cannot write into .*No such file"):
        files.refuse_unwritable(tmp_path / "missing")


def test_json_that_is_nested_too_deep_is_a_value_error():
    assert files.parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deep"):
        files.parse_json("[" * 100_000 + "]" * 100_000)


def test_a_second_process_hears_of_the_first_whatever_its_command_is(monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["main.py", "--savedir", BYTES])
    path = tmp_path / "lock"
    with files.locked(path, ""), pytest.raises(UserError) as refused, files.locked(path, "is training"):
        pass
    assert f"main.py --savedir '{BYTES}') is training" in str(refused.value)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_one_sentence_with_a_way_round(number, monkeypatch, tmp_path):
    def none(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.delenv("NO_LOCK", raising=False)
    monkeypatch.setattr(fcntl, "flock", none)
    words = r"has no locks \(.*\): choose a folder on another one, or set NO_LOCK=1"
    with pytest.raises(UserError, match=words), files.locked(tmp_path / "lock", ""):
        pass
    monkeypatch.setenv("NO_LOCK", "1")
    with files.locked(tmp_path / "lock", ""):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} ")
