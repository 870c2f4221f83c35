"""Get at originals: download them over a network that fails, read them out of archives and folders."""

import io
import itertools
import json
import os
import re
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NoReturn

import requests
import urllib3
from PIL import Image
from tqdm import tqdm

from arrays import checksum, npy_header, refuse_other_shape
from errors import UserError
from files import locked, sync, write_atomically

BEGINNING = 1 << 14  # bytes; longer than the header of any .npy file of numbers
LARGEST = 64 << 20  # bytes; far more than an image or a table of names can have
OTHERWISE = "or get the files elsewhere and give their folder as --source or their address as --mirror"


class Dropped(Exception):
    """A download stopped in a way that another try may mend. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def download(
    url: str,
    path: Path,
    shape: tuple[int, ...],
    retries: int = 5,
    timeout: float = 60.0,
    wait: float = 1.0,
) -> None:
    """Fetch the .npy file of an array of this shape (axes may be merged) to path, unless it is there already.

    Nothing stands at path until all of it has arrived: as many bytes as the .npy header says. What arrives goes to
    path.part, and path.json says which file it is (address, ETag or date, bytes), so that this or a later run
    resumes it and never joins two different files. In the end path.json also gets the file's SHA-256, by which a
    later call knows it again.

    A try fails when the connection drops, when nothing arrives for `timeout` seconds, when the server ends too
    early, or on an answer of 408, 429 or 5xx. UserError after more than `retries` failures in a row without a
    new byte, on any other answer, on another file than the wanted one, and while another process downloads to
    path. The pause between tries is `wait` seconds, doubled each time up to a minute, or what the server asks for.
    """
    part, note, lock = (path.with_name(f"{path.name}.{word}") for word in ("part", "json", "lock"))
    with locked(lock, f"is downloading {path}: wait for it"):
        if path.is_file():
            if _is_whole(path, _read_note(note, url)):
                return
            print(f"{path} is not, or not any more, the whole of {url}", flush=True)
        print(f"downloading {url}", flush=True)
        failures, most = 0, _size(part)
        while True:
            try:
                _fetch(url, part, note, shape, timeout)
                break
            except Dropped as fault:
                failures = failures + 1 if _size(part) <= most else 1
                most = max(most, _size(part))
                if failures > retries:
                    raise UserError(
                        f"could not download {url}: {fault}; the same command goes on where this one stopped, "
                        f"{OTHERWISE}"
                    ) from None
                pause = max(fault.after, min(wait * 2 ** (failures - 1), 60.0))
                print(f"{fault}: trying again in {pause:g} s", flush=True)
                time.sleep(pause)
        sync(part)
        write_atomically(note, json.dumps({**_read_note(note, url), "sha256": checksum(part)["sha256"]}))
        os.replace(part, path)
        sync(path.parent)


def _is_whole(path: Path, known: dict) -> bool:
    """Is path still what was downloaded, as its note has it?"""
    return _size(path) == known.get("bytes") and checksum(path)["sha256"] == known.get("sha256")


def _fetch(url: str, part: Path, note: Path, shape: tuple[int, ...], timeout: float) -> None:
    """One try: go on with part where that is safe, else begin it. Dropped or UserError unless it is whole."""
    known = _read_note(note, url)
    size = _size(part) if known.get("validator") else 0  # without one, nothing tells this file from another
    if size and size == known["bytes"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers |= {"Range": f"bytes={size}-", "If-Range": known["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            _refuse_other_than_file(reply, url)
            chunks = reply.iter_content(1 << 16)
            if reply.status_code == 200:  # a first try, a changed file, or a server that ignores Range
                size, beginning = 0, b""
                while len(beginning) < BEGINNING and (chunk := next(chunks, b"")):
                    beginning += chunk
                promised = _promised(beginning, reply.headers.get("Content-Length"), url, shape)
                known = {"url": url, "validator": _validator(reply), "bytes": promised}
                part.write_bytes(b"")
                sync(part)  # so that a power cut never leaves the old bytes beside the new note
                write_atomically(note, json.dumps(known))
                chunks = itertools.chain([beginning], chunks)
            elif not _resumes(reply, size, known):
                part.unlink(missing_ok=True)
                raise Dropped("the server did not go on with the file that was begun")
            options = {"unit": "B", "unit_scale": True, "desc": note.stem, "disable": None}
            with open(part, "ab") as file, tqdm(total=known["bytes"], initial=size, **options) as bar:
                for chunk in chunks:
                    file.write(chunk)
                    bar.update(len(chunk))
                    size += len(chunk)
                    if size > known["bytes"]:
                        part.unlink()
                        raise UserError(f"{url} goes on after the {known['bytes']} bytes of its array, {OTHERWISE}")
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        reason = system_error(fault) or "the connection dropped"
        if "timed out" in reason:
            reason = f"nothing arrived for {timeout:g} seconds"
        progress = f" after {_size(part)} of {known['bytes']} bytes" if known else ""
        raise Dropped(reason + progress) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as fault:  # requests lets some of these pass
        raise UserError(f"could not download {url}: {fault}; check the address") from None
    if size != known["bytes"]:
        raise Dropped(f"only {size} of {known['bytes']} bytes arrived")


def _promised(beginning: bytes, length: str | None, url: str, shape: tuple[int, ...]) -> int:
    """The bytes of the whole file, by the .npy header at its beginning; the server's Content-Length may be missing.

    Dropped where too little arrived to tell. UserError: no .npy file, one of another shape, or of another length.
    """
    if not beginning:
        raise Dropped("nothing arrived")
    try:
        its_shape, size = npy_header(io.BytesIO(beginning), url)
    except ValueError as fault:
        raise Dropped(f"the .npy header is damaged or cut short ({fault})") from None
    refuse_other_shape(its_shape, shape, url)
    if length not in (None, str(size)):
        raise UserError(f"{url} has {length} bytes, and its .npy header says {size}: it is damaged, {OTHERWISE}")
    return size


def _refuse_other_than_file(reply: requests.Response, url: str) -> None:
    answer = f"the server answered {reply.status_code} {reply.reason}"
    if reply.status_code in (408, 429) or reply.status_code >= 500:
        after = reply.headers.get("Retry-After", "")
        raise Dropped(answer, min(float(after), 60.0) if after.isdecimal() else 0.0)
    if reply.status_code not in (200, 206, 416):
        raise UserError(f"could not download {url}: {answer}; check the address, {OTHERWISE}")


def _resumes(reply: requests.Response, begun: int, known: dict) -> bool:
    """Is this the rest of the very file that was begun? Some servers ignore If-Range."""
    if reply.status_code != 206 or not begun:
        return False
    range_of_it = re.fullmatch(rf"bytes {begun}-\d+/{known['bytes']}", reply.headers.get("Content-Range", ""))
    return range_of_it is not None and _validator(reply) in (None, known["validator"])


def _validator(reply: requests.Response) -> str | None:
    """What tells this version of the file from another, if the server says: a strong ETag, or the date."""
    etag = reply.headers.get("ETag", "W/")
    return reply.headers.get("Last-Modified") if etag.startswith("W/") else etag


def system_error(fault: Exception) -> str:
    """What is behind requests' nested message: "connection refused", "timed out", ...; otherwise ""."""
    found = re.search(r"\[Errno -?\d+\] ([\w ]+)|timed out", str(fault))
    return (found[1] or found[0]).lower() if found else ""


def _read_note(note: Path, url: str) -> dict:
    """What is known of the file at this address; {} where that is nothing."""
    try:
        known = json.loads(note.read_text())
        return known if known["url"] == url and int(known["bytes"]) else {}
    except (FileNotFoundError, ValueError, TypeError, LookupError):  # none, or not one of ours
        return {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# --- archives and folders ---


def contents(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes, object]]:
    """(name, bytes, wanted(name)) of each file in a folder, a zip or a tar for which the last is true.

    A name has forward slashes; a folder's begins with its own. UserError: not an archive, or damaged, or a file
    of more than LARGEST bytes, which is not read.
    """
    try:
        if path.is_dir():
            for file in _files(path):
                name = file.relative_to(path.parent).as_posix()
                if match := wanted(name):
                    with open(file, "rb") as stream:
                        yield name, _read(stream, file.stat().st_size, name, path), match
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if match := wanted(member.filename):
                        with archive.open(member) as stream:
                            yield member.filename, _read(stream, member.file_size, member.filename, path), match
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if (match := wanted(member.name)) and member.isfile():
                        yield member.name, _read(archive.extractfile(member), member.size, member.name, path), match
    except UserError:
        raise
    except Exception as fault:  # each archive and compression raises its own kinds
        if getattr(fault, "errno", None):  # the disk, not the archive
            raise
        raise UserError(f"{path} is not a whole zip or tar archive: get it again") from None


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


def decode(data: bytes, where: str, mode: str) -> Image.Image:
    """The image (PNG, JPEG, ...) in data, in Pillow's mode "L" or "RGB". UserError if it is damaged, or immense."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)  # from 90 million pixels on
            with Image.open(io.BytesIO(data)) as image:
                return image.convert(mode)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as fault:
        raise UserError(f"{where} is refused ({fault}): get the data again") from None
    except Exception:  # Pillow raises many kinds, OSError to SyntaxError
        raise UserError(f"{where} is not an image, or is damaged: get the data again") from None
