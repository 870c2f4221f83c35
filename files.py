"""Files that last: written whole or not at all, kept through a power cut, and locked against a second process.

NO_LOCK=1 in the environment leaves the locks out, for file systems that have none. Names that are not UTF-8 are
written as Python escapes them.
"""

import json
import os
import secrets
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def sync(path: Path) -> None:
    """Wait until the disk has this file, or the names in this folder (where the file system can tell)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write the file `path`: a reader, or whoever comes after a power cut, finds all of the old one or of the new."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "xb") as file:
            file.write(to_bytes(content) if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    sync(path.parent)


def write_if_new(path: Path, content: str) -> None:
    """Write the file `path`, unless it has this content already: its folder may then be read-only."""
    if not path.is_file() or path.read_bytes() != to_bytes(content):
        write_atomically(path, content)


def to_bytes(content: str) -> bytes:
    """Encode as UTF-8; bytes of a file's name that are not UTF-8 become Python's escapes."""
    return content.encode(errors="backslashreplace")


def refuse_unwritable(folder: Path) -> None:
    """UserError if no file can be written into this folder: call it before computing what is to be written there."""
    try:
        probe = folder / f".{secrets.token_hex(4)}.probe"
        try:
            write_atomically(probe, "x")
        finally:
            probe.unlink(missing_ok=True)
    except OSError as fault:
        raise UserError(
            f"cannot write into {folder} ({fault.strerror}): make room there, or copy it elsewhere"
        ) from fault


def parse_json(text: str | bytes) -> object:
    """Return the value of this JSON text. ValueError where it is no JSON, or is nested too deep for Python."""
    try:
        return json.loads(text)
    except RecursionError as fault:
        raise ValueError("lists or objects are nested too deep") from fault


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock file `path`, whose folder is made if need be; the lock goes with its process, however that ends.

    UserError where another process holds it: who that is, and `busy`, which says what to do about it; and where the
    file cannot be written, or cannot be locked. Where NO_LOCK is set, it is written and not locked.
    """
    if fcntl is None:
        raise UserError("this program locks its folders by fcntl, which Windows has not: run it in WSL")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "ab+")  # noqa: SIM115 (closed below)
    except OSError as fault:
        raise UserError(f"cannot write into {path.parent} ({fault.strerror}): choose another folder") from fault
    with file:
        try:
            if not os.environ.get("NO_LOCK"):
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
