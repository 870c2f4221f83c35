"""Read originals out of folders, zips and tars, none of which is trusted."""

import os
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from errors import UserError

LARGEST = 64 << 20  # bytes; far more than an image or a table of names can have


def contents(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes, object]]:
    """(name, bytes, wanted(name)) of each file in a folder, a zip or a tar for which the last is true.

    A name has forward slashes; a folder's begins with its own. UserError: not an archive, or damaged, or a file
    of more than LARGEST bytes, which is not read.
    """
    try:
        for name, size, open_file in _members(path):
            if match := wanted(name):
                with open_file() as stream:
                    yield name, _read(stream, size, name, path), match
    except UserError:
        raise
    except Exception as fault:  # each archive and compression raises its own kinds
        if getattr(fault, "errno", None):  # the disk, not the archive
            raise
        raise UserError(f"{path} is not a whole zip or tar archive: get it again") from None


def _members(path: Path) -> Iterator[tuple[str, int, Callable[[], IO[bytes]]]]:
    """(name, size in bytes as it is declared, function that opens it) of each file in a folder, a zip or a tar."""
    if path.is_dir():
        for file in _files(path):
            yield file.relative_to(path.parent).as_posix(), file.stat().st_size, partial(open, file, "rb")
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                yield member.filename, member.file_size, partial(archive.open, member)
    else:
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile():
                    yield member.name, member.size, partial(archive.extractfile, member)


def _files(folder: Path) -> list[Path]:
    """All files under a folder, by name. OSError where one of its folders cannot be read."""

    def fail(fault: OSError) -> NoReturn:
        raise fault

    walk = os.walk(folder, onerror=fail)
    return sorted(file for parent, _, names in walk for name in names if (file := Path(parent, name)).is_file())


def _read(stream: IO[bytes], size: int, name: str, where: Path) -> bytes:
    """All of a file that claims this size; where the claim is false, not more than one byte over LARGEST."""
    if size > LARGEST or len(data := stream.read(LARGEST + 1)) > LARGEST:
        raise UserError(f"{name} in {where} has more than {LARGEST >> 20} MiB, absurd for an image or a table")
    return data
