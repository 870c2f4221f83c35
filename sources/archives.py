"""Read files out of folders, zips and tars, which may be damaged or hostile."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from errors import UserError

LARGEST = 64 << 20  # bytes; far more than an image or a table of names needs


def contents(path: Path, select: Callable[[str], object]) -> Iterator[tuple[str, bytes, object]]:
    """Yield (name, bytes, select(name)) for every file in a folder, a zip or a tar, unless select(name) is false.

    Names have forward slashes; in a folder they begin with the folder's name. Raise UserError if the archive is damaged
    or none, or if a selected file has more than LARGEST bytes; such a file is not read.
    """
    try:
        for name, size, open_file in _members(path):
            if match := select(name):
                with open_file() as stream:
                    yield name, _read(stream, size, name, path), match
    except UserError:
        raise
    except Exception as fault:  # each kind of archive and compression raises its own exceptions
        if getattr(fault, "errno", None):  # the disk is at fault, not the archive
            raise
        raise UserError(f"{path} is not a whole zip or tar archive: get it again") from None


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """Yield (name, declared size in bytes, function that opens it) for every file in a folder, a zip or a tar."""
    if path.is_dir():
        walk = os.walk(path, onerror=_raise)
        for file in sorted(Path(parent, name) for parent, _, names in walk for name in names):
            if file.is_file():
                yield file.relative_to(path.parent).as_posix(), file.stat().st_size, partial(open, file, "rb")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                yield member.filename, member.file_size, partial(archive.open, member)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() or member.islnk():  # a link to an earlier member has its content
                    yield member.name, member.size, partial(archive.extractfile, member)


def _raise(fault: OSError) -> NoReturn:
    """Let os.walk fail at a folder that cannot be read."""
    raise fault


def _read(stream: IO[bytes], size: int, name: str, where: Path) -> bytes:
    """Read at most LARGEST + 1 bytes of a file. Raise UserError if it has more than LARGEST, or says so."""
    if size > LARGEST or len(data := stream.read(LARGEST + 1)) > LARGEST:
        raise UserError(f"{name} in {where} has more than {LARGEST >> 20} MiB, too much for an image or a table")
    return data
