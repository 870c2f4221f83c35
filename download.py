"""Get at originals: download them over a network that fails, read them out of archives and folders."""

import io
import json
import os
import re
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from PIL import Image
from tqdm import tqdm

from arrays import refuse_other_than_npy
from errors import UserError

OTHERWISE = "or get the files elsewhere and give their folder as --source or their address as --mirror"


class Dropped(Exception):
    """A download stopped in a way that another try may mend. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def download(url: str, path: Path, retries: int = 5, timeout: float = 60.0, wait: float = 1.0) -> None:
    """Fetch an .npy file to path; nothing stands at path until all of it is there.

    What arrives goes to path.part, and path.json says which file it is (address, ETag or date, bytes), so
    that this or a later run resumes it and never joins two different files. A try fails when the connection
    drops, when nothing arrives for `timeout` seconds, or on an answer of 408, 429 or 5xx. UserError after
    more than `retries` failures in a row without a new byte, or on any other answer. The pause between tries
    is `wait` seconds, doubled each time, or what the server asks for.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and _read_note(note, url).get("bytes") == path.stat().st_size:
        return
    print(f"downloading {url}", flush=True)
    failures, most = 0, _size(part)
    while True:
        try:
            _fetch(url, part, note, timeout)
            break
        except Dropped as fault:
            failures = failures + 1 if _size(part) <= most else 1
            most = max(most, _size(part))
            if failures > retries:
                raise UserError(
                    f"could not download {url}: {fault}; the same command goes on where this one stopped, {OTHERWISE}"
                ) from None
            pause = max(fault.after, min(wait * 2 ** (failures - 1), 60.0))
            print(f"{fault}: trying again in {pause:g} s", flush=True)
            time.sleep(pause)
    os.replace(part, path)


def _fetch(url: str, part: Path, note: Path, timeout: float) -> None:
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
            if reply.status_code == 200:  # a first try, a changed file, or a server that ignores Range
                size, length = 0, reply.headers.get("Content-Length")
                known = {"url": url, "validator": _validator(reply), "bytes": int(length) if length else None}
                part.write_bytes(b"")
                note.write_text(json.dumps(known))
            elif not _resumes(reply, size, known):
                part.unlink(missing_ok=True)
                raise Dropped("the server did not go on with the file that was begun")
            options = {"unit": "B", "unit_scale": True, "desc": note.stem, "disable": None}
            with open(part, "ab") as file, tqdm(total=known["bytes"], initial=size, **options) as bar:
                for chunk in reply.iter_content(1 << 16):
                    if size == 0:
                        refuse_other_than_npy(chunk, url)
                    file.write(chunk)
                    bar.update(len(chunk))
                    size += len(chunk)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        reason = system_error(fault) or "the connection dropped"
        if "timed out" in reason:
            reason = f"nothing arrived for {timeout:g} seconds"
        progress = f" after {_size(part)} of {known['bytes']} bytes" if known.get("bytes") else ""
        raise Dropped(reason + progress) from None
    except requests.RequestException as fault:
        raise UserError(f"could not download {url}: {fault}; check the address") from None
    if known["bytes"] is None:  # the server did not say; HTTP's own end mark, or the .npy header, must do
        note.write_text(json.dumps({**known, "bytes": size}))
    elif size != known["bytes"]:
        raise Dropped(f"only {size} of {known['bytes']} bytes arrived")


def _refuse_other_than_file(reply: requests.Response, url: str) -> None:
    answer = f"the server answered {reply.status_code} {reply.reason}"
    if reply.status_code in (408, 429) or reply.status_code >= 500:
        after = reply.headers.get("Retry-After", "")
        raise Dropped(answer, min(float(after), 60.0) if after.isdigit() else 0.0)
    if reply.status_code not in (200, 206, 416):
        raise UserError(f"could not download {url}: {answer}; check the address, {OTHERWISE}")


def _resumes(reply: requests.Response, begun: int, known: dict) -> bool:
    """Is this the rest of the very file that was begun? Some servers ignore If-Range."""
    if reply.status_code != 206 or not begun:
        return False
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", reply.headers.get("Content-Range", ""))
    same = _validator(reply) in (None, known["validator"])
    return bool(found and int(found[1]) == begun and int(found[2]) == known["bytes"] and same)


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
    except (FileNotFoundError, ValueError):
        return {}
    return known if known.get("url") == url else {}


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


# --- archives and folders ---


def contents(path: Path, wanted: Callable[[str], object]) -> Iterator[tuple[str, bytes, object]]:
    """(name, bytes, wanted(name)) of each file in a folder, a zip or a tar for which the last is true.

    A name has forward slashes; a folder's begins with its own. UserError: not an archive, or damaged.
    """
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*")):
                name = file.relative_to(path.parent).as_posix()
                if (found := wanted(name)) and file.is_file():
                    yield name, file.read_bytes(), found
        elif zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if found := wanted(name):
                        yield name, archive.read(name), found
        else:
            with tarfile.open(path) as archive:
                for member in archive:
                    if (found := wanted(member.name)) and member.isfile():
                        yield member.name, archive.extractfile(member).read(), found
    except Exception as fault:  # each archive and compression raises its own kinds
        if getattr(fault, "errno", None):  # the disk, not the archive
            raise
        raise UserError(f"{path} is not a whole zip or tar archive: get it again") from None


def decode(data: bytes, where: str, mode: str) -> Image.Image:
    """The image (PNG, JPEG, ...) in data, in Pillow's mode "L" or "RGB". UserError if it is damaged."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.convert(mode)
    except Exception:  # Pillow raises many kinds, OSError to SyntaxError
        raise UserError(f"{where} is not an image, or is damaged: get the data again") from None
