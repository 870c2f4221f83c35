"""How a command ends: its exit code, its one sentence; and what it leaves on the disk, also where the power fails."""

import errno
import os
import signal
import stat
from unittest import mock

import pytest

import errors
import files
from errors import UserError


def ending(main, capsys):
    """The exit code and the standard error of a command."""
    with pytest.raises(SystemExit) as left:
        errors.run(main)
    return left.value.code, capsys.readouterr().err


def raiser(fault):
    def main():
        raise fault

    return main


class ResourceExhaustedError(Exception):
    """TensorFlow's, by its name."""


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (UserError("the first line\n   and the second"), 2, "error: the first line and the second\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (MemoryError("6 GiB"), 2, "error: this machine does not have enough memory: 6 GiB\n"),
        (ResourceExhaustedError("OOM when allocating\na tensor"), 2, "error: the device does not have enough memory: "),
        (
            OSError(errno.EACCES, "Permission denied", "/a/b"),
            2,
            "error: cannot read or write /a/b: Permission denied\n",
        ),
        (OSError(errno.EIO, "Input/output error"), 2, "error: cannot read or write the disk: Input/output error\n"),
    ],
)
def test_a_fault_is_one_sentence_and_an_exit_code(fault, code, words, capsys):
    found, told = ending(raiser(fault), capsys)
    assert found == code and told.startswith(words) and told.count("\n") == 1


@pytest.mark.parametrize("fault", [ValueError("a defect"), OSError("without a number")])
def test_a_defect_is_a_traceback(fault):
    with pytest.raises(type(fault)):
        errors.run(raiser(fault))


def test_a_command_that_is_done_leaves_with_its_code(capsys):
    assert ending(lambda: None, capsys) == (None, "") and ending(lambda: 130, capsys) == (130, "")


def test_options_are_not_abbreviated(capsys):
    parser = errors.Parser(prog="main.py")
    parser.add_argument("--savedir")
    assert parser.parse_args(["--savedir", "a"]).savedir == "a"
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["--save", "a"])
    assert left.value.code == 2
    assert capsys.readouterr().err == "main.py: unrecognized arguments: --save a (see --help)\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_signal_asks_for_a_stop_and_a_second_one_leaves_at_once(number):
    before = signal.getsignal(number)
    with errors.Stop() as stop:
        assert not stop.asked
        signal.raise_signal(number)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def test_a_file_is_on_the_disk_before_it_has_its_name_and_then_its_name_is(tmp_path, monkeypatch):
    done, fsync, replace = [], os.fsync, os.replace

    def synced(descriptor):
        found = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(found.st_mode) else found.st_size)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("named"), replace(*paths)))
    for content in ("five\n", b"seven\n\n"):
        files.write_atomically(tmp_path / "config.json", content)
    assert done == [5, "named", "folder", 7, "named", "folder"]


def test_a_folder_that_cannot_be_synced_is_none_and_a_file_is_a_fault(tmp_path):
    (tmp_path / "file").touch()
    with mock.patch.object(os, "fsync", side_effect=OSError(errno.EINVAL, "Invalid argument")):
        files.sync(tmp_path)
        with pytest.raises(OSError, match="Invalid argument"):
            files.sync(tmp_path / "file")


def test_a_lock_says_who_holds_it_and_not_who_held_it(tmp_path):
    path = tmp_path / "new" / "folder" / "lock"
    for words in (["main.py", "--savedir", "x" * 200], ["main.py"]):
        with mock.patch("sys.argv", words), files.locked(path, "waits"):
            assert path.read_text().endswith(f"({' '.join(words)})") and path.read_text().count("process") == 1
            told = rf"^process {os.getpid()} on .* \(main.py.*\) waits$"
            with pytest.raises(UserError, match=told), files.locked(path, "waits"):
                pass
