"""Download an .npy file over a network that fails, and go on where an earlier try stopped."""

import io
import itertools
import json
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from errors import UserError
from files import locked, sync, write_atomically
from sources.arrays import checksum, npy_header, refuse_other_shape

BEGINNING = 1 << 14  # bytes; longer than the header of any .npy file of numbers
CHUNK = 1 << 16  # bytes
LONGEST_PAUSE = 60.0  # seconds
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
    path.part. path.json is a note of which file it is (address, ETag or date, bytes), so that this or a later run
    resumes it and never joins two different files. In the end the note also gets the file's SHA-256, by which a
    later call knows it again.

    A try fails when the connection drops, when nothing arrives for `timeout` seconds, when the server ends too
    early, or on an answer of 408, 429 or 5xx. UserError after more than `retries` failures in a row without a
    new byte, on any other answer, on another file than the wanted one, and while another process downloads to
    path. The pause between tries is `wait` seconds, doubled each time up to a minute, or what the server asks for.
    """
    part, note_path, lock = (path.with_name(f"{path.name}.{word}") for word in ("part", "json", "lock"))
    with locked(lock, f"is downloading {path}: wait for it"):
        if path.is_file():
            if _is_whole(path, _read_note(note_path, url)):
                return
            print(f"{path} is not, or not any more, the whole of {url}", flush=True)
        print(f"downloading {url}", flush=True)
        _fetch_with_retries(url, part, note_path, shape, retries, timeout, wait)
        sync(part)
        write_atomically(note_path, json.dumps({**_read_note(note_path, url), "sha256": checksum(part)["sha256"]}))
        os.replace(part, path)
        sync(path.parent)


def _is_whole(path: Path, note: dict) -> bool:
    """Is path still what was downloaded, as its note has it?"""
    return _size(path) == note.get("bytes") and checksum(path)["sha256"] == note.get("sha256")


def _fetch_with_retries(
    url: str, part: Path, note_path: Path, shape: tuple[int, ...], retries: int, timeout: float, wait: float
) -> None:
    """Try until part is whole. UserError after more than `retries` failures in a row without a new byte."""
    failures, longest = 0, _size(part)
    while True:
        try:
            return _fetch(url, part, note_path, shape, timeout)
        except Dropped as fault:
            failures = failures + 1 if _size(part) <= longest else 1
            longest = max(longest, _size(part))
            if failures > retries:
                raise UserError(
                    f"could not download {url}: {fault}; the same command goes on where this one stopped, {OTHERWISE}"
                ) from None
            pause = max(fault.after, min(wait * 2 ** (failures - 1), LONGEST_PAUSE))
            print(f"{fault}: trying again in {pause:g} s", flush=True)
            time.sleep(pause)


def _fetch(url: str, part: Path, note_path: Path, shape: tuple[int, ...], timeout: float) -> None:
    """One try: go on with part where that is safe, else begin it. Dropped or UserError unless it is whole."""
    note = _read_note(note_path, url)
    size = _size(part) if note.get("validator") else 0  # without one, nothing tells this file from another
    if size and size == note["bytes"]:
        return
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers |= {"Range": f"bytes={size}-", "If-Range": note["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            _refuse_other_than_file(reply, url)
            chunks = reply.iter_content(CHUNK)
            if reply.status_code == 200:  # a first try, a changed file, or a server that ignores Range
                beginning = _first_bytes(chunks)
                promised_bytes = _promised_bytes(beginning, reply.headers.get("Content-Length"), url, shape)
                note = {"url": url, "validator": _validator(reply), "bytes": promised_bytes}
                _begin(part, note_path, note)
                size, chunks = 0, itertools.chain([beginning], chunks)
            elif not _resumes(reply, size, note):
                part.unlink(missing_ok=True)
                raise Dropped("the server did not go on with the file that was begun")
            size = _append(part, chunks, size, note)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        progress = f" after {_size(part)} of {note['bytes']} bytes" if note else ""
        raise Dropped(_reason(fault, timeout) + progress) from None
    except (requests.RequestException, urllib3.exceptions.HTTPError) as fault:  # requests lets some of these pass
        raise UserError(f"could not download {url}: {fault}; check the address") from None
    if size != note["bytes"]:
        raise Dropped(f"only {size} of {note['bytes']} bytes arrived")


def _first_bytes(chunks: Iterator[bytes]) -> bytes:
    """At least BEGINNING bytes, or all that there are."""
    beginning = b""
    while len(beginning) < BEGINNING and (chunk := next(chunks, b"")):
        beginning += chunk
    return beginning


def _begin(part: Path, note_path: Path, note: dict) -> None:
    """Empty part, and note what will be in it."""
    part.write_bytes(b"")
    sync(part)  # so that a power cut never leaves the old bytes beside the new note
    write_atomically(note_path, json.dumps(note))


def _append(part: Path, chunks: Iterable[bytes], size: int, note: dict) -> int:
    """Write the chunks behind part's first `size` bytes; returns its new size. UserError where they do not end."""
    progress = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
    with open(part, "ab") as file, tqdm(total=note["bytes"], initial=size, **progress) as bar:
        for chunk in chunks:
            file.write(chunk)
            bar.update(len(chunk))
            size += len(chunk)
            if size > note["bytes"]:
                part.unlink()
                raise UserError(f"{note['url']} goes on after the {note['bytes']} bytes of its array, {OTHERWISE}")
    return size


def _promised_bytes(beginning: bytes, length: str | None, url: str, shape: tuple[int, ...]) -> int:
    """The bytes of the whole file, by the .npy header at its beginning; length: the server's Content-Length, if any.

    Dropped where too little arrived to tell. UserError: no .npy file, one of another shape, or of another length.
    """
    if not beginning:
        raise Dropped("nothing arrived")
    try:
        header_shape, promised_bytes = npy_header(io.BytesIO(beginning), url)
    except ValueError as fault:
        raise Dropped(f"the .npy header is damaged or cut short ({fault})") from None
    refuse_other_shape(header_shape, shape, url)
    if length not in (None, str(promised_bytes)):
        raise UserError(
            f"{url} has {length} bytes, and its .npy header says {promised_bytes}: it is damaged, {OTHERWISE}"
        )
    return promised_bytes


def _refuse_other_than_file(reply: requests.Response, url: str) -> None:
    """Dropped where the server may give the file later; UserError where it will not."""
    answer = f"the server answered {reply.status_code} {reply.reason}"
    if reply.status_code in (408, 429) or reply.status_code >= 500:
        after = reply.headers.get("Retry-After", "")
        raise Dropped(answer, min(float(after), LONGEST_PAUSE) if after.isdecimal() else 0.0)
    if reply.status_code not in (200, 206, 416):
        raise UserError(f"could not download {url}: {answer}; check the address, {OTHERWISE}")


def _resumes(reply: requests.Response, size: int, note: dict) -> bool:
    """Does the reply hold the bytes from `size` on of the very file that was begun? Some servers ignore If-Range."""
    if reply.status_code != 206 or not size:
        return False
    content_range = re.fullmatch(rf"bytes {size}-\d+/{note['bytes']}", reply.headers.get("Content-Range", ""))
    return content_range is not None and _validator(reply) in (None, note["validator"])


def _validator(reply: requests.Response) -> str | None:
    """What tells this version of the file from another, if the server says: a strong ETag, or the date."""
    etag = reply.headers.get("ETag", "W/")
    return reply.headers.get("Last-Modified") if etag.startswith("W/") else etag


def _reason(fault: Exception, timeout: float) -> str:
    """Why the connection ended, in words."""
    reason = system_error(fault) or "the connection dropped"
    return f"nothing arrived for {timeout:g} seconds" if "timed out" in reason else reason


def system_error(fault: Exception) -> str:
    """What is behind requests' nested message: "connection refused", "timed out", ...; otherwise ""."""
    error = re.search(r"\[Errno -?\d+\] ([\w ]+)|timed out", str(fault))
    return (error[1] or error[0]).lower() if error else ""


def _read_note(note_path: Path, url: str) -> dict:
    """What is known of the file at this address: url, validator, bytes, sha256; {} where nothing is."""
    try:
        note = json.loads(note_path.read_text())
        return note if note["url"] == url and int(note["bytes"]) else {}
    except (FileNotFoundError, ValueError, TypeError, LookupError):  # none, or not one of ours
        return {}


def _size(path: Path) -> int:
    """In bytes; 0 where there is no such file."""
    return path.stat().st_size if path.is_file() else 0
