"""Files that survive a crash: written whole or not at all, synced to the disk, and locked against a second process.

NO_LOCK=1 in the environment leaves the locks out, for file systems that have none. A name that is not UTF-8 is written
with Python's escapes.
"""

import json
import os
import secrets
import shlex
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from errors import UserError, user_error

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

DESCRIPTORS = Path("/proc/self/fd")  # paths of the files and folders that this process has open, on Linux


def sync(path: Path) -> None:
    """Wait until this file, or the list of files in this folder, is on the disk. Not every file system can sync a
    folder; then return at once."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_synced(path: Path, content: bytes) -> None:
    """Write a new file, and wait until it is on the disk."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file so that a reader gets all of the old content or all of the new, even after a power cut."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        write_synced(part, encode(content) if isinstance(content, str) else content)
        os.replace(part, path)
    except OSError as fault:
        raise OSError(fault.errno, fault.strerror, str(path)) from fault
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def write_if_changed(path: Path, content: str) -> None:
    """Write a file unless it has this content already. The folder of an unchanged file may be read-only."""
    if not path.is_file() or path.read_bytes() != encode(content):
        write_atomically(path, content)


def encode(text: str) -> bytes:
    """Encode as UTF-8; bytes of a file's name that are not UTF-8 become Python's escapes."""
    return text.encode(errors="backslashreplace")


def refuse_unwritable(folder: Path, *names: str, remedy: str = "free some space, or copy the folder elsewhere") -> None:
    """Raise UserError if files with these names cannot be written into this folder. Call it before a long
    computation."""
    for name in names:
        if (folder / name).is_dir():
            raise UserError(f"{folder / name} is a folder, where a file is to be written: rename or remove it")
    probe = folder / f".{max(names, key=len, default='')}.{secrets.token_hex(4)}.part"  # as write_atomically has it
    with user_error(f"cannot write into {folder}", remedy, OSError):
        try:
            write_synced(probe, b"x")
        finally:
            probe.unlink(missing_ok=True)


def parse_json(text: str | bytes) -> object:
    """Return the value of a JSON text, which may begin with a byte order mark. Raise ValueError if it is not JSON or is
    nested too deep for Python."""
    try:
        return json.loads(text.removeprefix("\ufeff") if isinstance(text, str) else text)
    except RecursionError as fault:
        raise ValueError("lists or objects are nested too deep") from fault


@contextmanager
def plain_path(folder: Path) -> Iterator[str]:
    """Yield another path of this folder for TensorFlow, which reads brackets, stars, question marks and backslashes in
    a path as a pattern, and refuses a path that is not UTF-8."""
    with ExitStack() as stack:
        if DESCRIPTORS.is_dir():
            descriptor = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            yield str(DESCRIPTORS / str(descriptor))
        else:
            link = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "folder"
            link.symlink_to(folder.absolute())
            yield str(link)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path` and make its folder; the lock ends with the process, even if that is killed.

    Raise UserError if another process holds the lock (the message names that process and ends with `busy`), or if
    the file cannot be written or locked. With NO_LOCK the file is written and not locked.
    """
    if fcntl is None:
        raise UserError("this program locks its folders with fcntl, which Windows does not have: run it in WSL")
    with user_error(f"cannot write into {path.parent}", "choose another folder", OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+")  # noqa: SIM115 (closed below)
    with file:
        try:
            if os.environ.get("NO_LOCK", "0") in ("", "0"):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(f"{os.fsdecode(file.read()).strip() or 'another process'} {busy}") from None
        except OSError as fault:
            raise UserError(
                f"the file system of {path.parent} has no locks ({fault.strerror}): choose a folder on another one, or "
                f"set NO_LOCK=1 in the environment and let no second command write there"
            ) from fault
        file.truncate(0)
        file.write(os.fsencode(f"process {os.getpid()} on {socket.gethostname()} ({shlex.join(sys.argv)})"))
        file.flush()
        yield
