"""Files: written whole, synced to the disk, locked, and with names of any bytes."""

import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

import files
from conftest import ROOT
from errors import UserError

BYTES = os.fsdecode(b"caf\xe9")  # a name that is not UTF-8
ODD = "lr[0.1] *?{a,b}\\ж: -" + os.fsdecode(b"\xff")  # a pattern for TensorFlow, and not UTF-8


def test_a_file_is_synced_before_it_gets_its_name_and_its_folder_after(monkeypatch, tmp_path):
    """After a power cut an empty config.json would lose the run."""
    events, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append((path.name.removesuffix(".part")[:-8], os.fstat(descriptor).st_size) if path.is_file() else path)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (events.append("renamed"), replace(*paths)))
    for content in ("five\n", b"seven\n\n"):
        files.write_atomically(tmp_path / "config.json", content)
        assert events == [(".config.json.", len(content)), "renamed", tmp_path]
        events.clear()


def test_a_file_is_written_whole_or_not_at_all(monkeypatch, tmp_path):
    path = tmp_path / "result.json"
    files.write_atomically(path, "old")
    parts, replace = [], os.replace

    def full(part, target):
        parts.append(part.name)
        assert part.read_text() == "new" and path.read_text() == "old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            files.write_atomically(path, "new")
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["result.json"]
    assert len(set(parts)) == 2  # two processes do not write into one temporary file
    monkeypatch.setattr(os, "replace", replace)
    files.write_atomically(path, "new")
    assert path.read_text() == "new"


def test_a_folder_may_refuse_to_be_synced_and_a_file_may_not(tmp_path):
    (tmp_path / "file").touch()
    with mock.patch.object(os, "fsync", side_effect=OSError(errno.EINVAL, "Invalid argument")):
        files.sync(tmp_path)
        with pytest.raises(OSError, match="Invalid argument"):
            files.sync(tmp_path / "file")


def test_a_name_that_is_not_utf8_is_escaped_in_a_text(tmp_path):
    path = tmp_path / BYTES
    files.write_atomically(path, f"{BYTES} é")
    assert path.read_text(encoding="utf-8") == r"caf\udce9 é"


def test_unchanged_content_is_not_written_again(tmp_path, monkeypatch):
    path = tmp_path / "a"
    files.write_if_changed(path, "same")
    monkeypatch.setattr(files, "write_atomically", lambda path, content: path.write_text(f"{content} written"))
    for content, left in (("same", "same"), ("other", "other written")):
        files.write_if_changed(path, content)
        assert path.read_text() == left


def test_an_unwritable_folder_is_refused_and_a_writable_one_stays_empty(tmp_path, monkeypatch):
    files.refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(os, "fsync", mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(UserError, match=r"cannot write into .*No space left on device"):
        files.refuse_unwritable(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match=r"cannot write into .*No such file"):
        files.refuse_unwritable(tmp_path / "missing")


def test_files_that_could_not_be_written_are_refused_before(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(UserError, match=r"a\.json is a folder"):
        files.refuse_unwritable(tmp_path, "b.json", "a.json")
    with pytest.raises(UserError, match=r"name too long\): choose another --out"):
        files.refuse_unwritable(tmp_path, "b.json", 250 * "a", remedy="choose another --out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    with pytest.raises(OSError, match="directory") as fault:
        files.write_atomically(tmp_path / "a.json", "x")
    assert fault.value.filename == str(tmp_path / "a.json")


def test_json_may_begin_with_a_byte_order_mark():
    for text in ("\ufeff[1]", "\ufeff[1]".encode()):
        assert files.parse_json(text) == [1]


def test_json_that_is_nested_too_deep_is_a_value_error():
    assert files.parse_json('{"a": [1]}') == {"a": [1]}
    with pytest.raises(ValueError, match="nested too deep"):
        files.parse_json("[" * 100_000 + "]" * 100_000)


def test_a_plain_path_has_no_pattern_and_is_ascii(monkeypatch, tmp_path):
    """On Linux it is the path of a descriptor, elsewhere that of a symbolic link."""
    folder = tmp_path / ODD
    folder.mkdir()
    for descriptors in (files.DESCRIPTORS, tmp_path / "none"):
        monkeypatch.setattr(files, "DESCRIPTORS", descriptors)
        with files.plain_path(folder) as path:
            assert os.path.samefile(path, folder) and not {*path} & {*"[]*?\\{}"} and path.isascii()
        assert not os.path.lexists(path)


def test_a_lock_ends_with_its_process(tmp_path):
    code = "import files, pathlib, sys, time\nwith files.locked(pathlib.Path(sys.argv[1]), ''):\n print(flush=True)\n"
    code += " time.sleep(60)"
    command = [sys.executable, "-c", code, tmp_path / "lock"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    process.stdout.readline()
    with (
        pytest.raises(UserError, match=f"process {process.pid} on .* holds it"),
        files.locked(tmp_path / "lock", "holds it"),
    ):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with files.locked(tmp_path / "lock", "holds it"):
        pass


def test_a_lock_names_the_process_that_holds_it(tmp_path):
    """And not an earlier one."""
    path = tmp_path / "new" / "folder" / "lock"
    for words in (["main.py", "--savedir", "x" * 200], ["main.py"], ["main.py", "--savedir", BYTES]):
        with mock.patch("sys.argv", words), files.locked(path, "waits"):
            assert path.read_bytes().count(b"process") == 1
            with pytest.raises(UserError) as refused, files.locked(path, "waits"):
                pass
        assert str(refused.value).startswith(f"process {os.getpid()} on ")
        assert str(refused.value).endswith(f"({shlex.join(words)}) waits")


@pytest.mark.parametrize("value", ["", "0"])
def test_no_lock_0_locks(value, monkeypatch, tmp_path):
    monkeypatch.setenv("NO_LOCK", value)
    with files.locked(tmp_path / "lock", ""), open(tmp_path / "lock") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_refused_unless_no_lock_is_set(number, monkeypatch, tmp_path):
    monkeypatch.delenv("NO_LOCK", raising=False)
    monkeypatch.setattr(fcntl, "flock", mock.Mock(side_effect=OSError(number, os.strerror(number))))
    words = r"has no locks \(.*\): choose a folder on another one, or set NO_LOCK=1"
    with pytest.raises(UserError, match=words), files.locked(tmp_path / "lock", ""):
        pass
    monkeypatch.setenv("NO_LOCK", "1")
    with files.locked(tmp_path / "lock", ""):
        assert (tmp_path / "lock").read_text().startswith(f"process {os.getpid()} ")
