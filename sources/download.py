"""Download an .npy file over an unreliable network, and resume where an earlier try stopped."""

import io
import itertools
import json
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import requests
import urllib3
from tqdm import tqdm

from errors import UserError
from files import locked, parse_json, sync, write_atomically
from sources.arrays import checksum, npy_header, refuse_other_shape

HEADER = 1 << 14  # bytes; more than the header of any .npy file of numbers
CHUNK = 1 << 16  # bytes
LONGEST_PAUSE = 60.0  # seconds
OTHERWISE = "get the files elsewhere, and give their folder as --source or their address as --mirror"


class Dropped(Exception):
    """A try of a download failed, and another one may succeed. after: seconds that the server asks to wait."""

    def __init__(self, reason: str, after: float = 0.0) -> None:
        super().__init__(reason)
        self.after = after


def download(url: str, path: Path, shape: tuple[int, ...], retries: int, timeout: float, wait: float = 1.0) -> None:
    """Download the .npy file of an array of this shape (axes may be merged) to `path`, unless it is there already.

    `path` is created only after all bytes that the .npy header declares have arrived. Until then they are in path.part;
    path.json notes which file they belong to (address, ETag or date, bytes), so that this or a later run can resume
    and never joins two different files. At the end the note gets the file's SHA-256, by which a later call recognizes
    the file.

    A try fails if the connection drops, if nothing arrives for `timeout` seconds, if the server ends too early, or if
    it answers 408, 429 or 5xx. UserError after more than `retries` failures in a row without a new byte, after any
    other answer, if it is another file than the wanted one, and while another process downloads to `path`. Between
    tries the program waits `wait` seconds, doubled each time up to a minute, or as long as the server asks.
    """
    part, note_path, lock = (path.with_name(f"{path.name}.{word}") for word in ("part", "json", "lock"))
    with locked(lock, f"is downloading {path}: wait for it"):
        if path.is_file():
            note = _read_note(note_path, url)
            if _size(path) == note.get("bytes") and checksum(path)["sha256"] == note.get("sha256"):
                return
            print(f"{path} is not the complete file at {url}", flush=True)
        print(f"downloading {url}", flush=True)
        failures, longest = 0, _size(part)
        while True:
            try:
                note = _fetch(url, part, note_path, shape, timeout)
                break
            except Dropped as fault:
                failures = failures + 1 if _size(part) <= longest else 1
                longest = max(longest, _size(part))
                if failures > retries:
                    raise UserError(
                        f"could not download {url}: {fault}; the same command resumes where this one stopped; or "
                        f"{OTHERWISE}"
                    ) from None
                pause = max(fault.after, min(wait * 2 ** (failures - 1), LONGEST_PAUSE))
                print(f"{fault}: trying again in {pause:g} s", flush=True)
                time.sleep(pause)
        sync(part)
        write_atomically(note_path, json.dumps({**note, "sha256": checksum(part)["sha256"]}))
        os.replace(part, path)
        sync(path.parent)


def _fetch(url: str, part: Path, note_path: Path, shape: tuple[int, ...], timeout: float) -> dict:
    """Try once to complete `part`, resuming if that is safe; return its note. Raise Dropped or UserError if it
    fails."""
    note = _read_note(note_path, url)
    size = _size(part) if note.get("validator") else 0  # without a validator, the server may have another file by now
    if size and size == note["bytes"]:
        return note
    headers = {"Accept-Encoding": "identity"}
    if size:
        headers |= {"Range": f"bytes={size}-", "If-Range": note["validator"]}
    try:
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as reply:
            _refuse_errors(reply, url)
            chunks = reply.iter_content(CHUNK)
            if reply.status_code == 200:  # a first try, a changed file, or a server that ignores Range
                header = b""
                while len(header) < HEADER and (chunk := next(chunks, b"")):
                    header += chunk
                size, chunks = 0, itertools.chain([header], chunks)
                packed = "Content-Encoding" in reply.headers  # then lengths and ranges are of the packed bytes
                length = None if packed else reply.headers.get("Content-Length")
                total = _total_bytes(header, length, url, shape)
                note = {"url": url, "validator": None if packed else _validator(reply), "bytes": total}
                part.write_bytes(b"")
                sync(part)  # so that a power cut never leaves the old bytes beside the new note
                write_atomically(note_path, json.dumps(note))
            elif not _resumes(reply, size, note):
                part.unlink(missing_ok=True)
                raise Dropped("the server did not resume the file")
            size = _append(part, chunks, size, note)
    except requests.exceptions.SSLError:
        raise UserError(
            f"could not download {url}: the server's certificate is not trusted; name a file of certificates in the "
            f"environment's REQUESTS_CA_BUNDLE, or {OTHERWISE}"
        ) from None
    except requests.exceptions.ProxyError:
        raise UserError(
            f"could not download {url}: the proxy does not pass it on; correct HTTPS_PROXY or HTTP_PROXY in the "
            f"environment, or {OTHERWISE}"
        ) from None
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as fault:
        reason = system_error(fault) or "the connection dropped"
        reason = f"nothing arrived for {timeout:g} seconds" if "timed out" in reason else reason
        progress = f" after {_size(part)} of {note['bytes']} bytes" if note else ""
        raise Dropped(reason + progress) from None
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
    ) as fault:  # requests lets some pass
        raise UserError(f"could not download {url}: {fault}; check the address") from None
    if size != note["bytes"]:
        raise Dropped(f"only {size} of {note['bytes']} bytes arrived")
    return note


def _append(part: Path, chunks: Iterable[bytes], size: int, note: dict) -> int:
    """Append the chunks to `part`, which has `size` bytes; return its new size. Raise UserError if there are too
    many."""
    progress = {"unit": "B", "unit_scale": True, "desc": part.stem, "disable": None}
    with open(part, "ab") as file, tqdm(total=note["bytes"], initial=size, **progress) as bar:
        for chunk in chunks:
            file.write(chunk)
            bar.update(len(chunk))
            size += len(chunk)
            if size > note["bytes"]:
                part.unlink()
                raise UserError(f"{note['url']} goes on after the {note['bytes']} bytes of its array: {OTHERWISE}")
    return size


def _total_bytes(header: bytes, length: str | None, url: str, shape: tuple[int, ...]) -> int:
    """Return the file's size in bytes as its .npy header declares it. length: the server's Content-Length.

    Raise Dropped if too few bytes arrived. Raise UserError if it is no .npy file, or has another shape or length.
    """
    if not header:
        raise Dropped("nothing arrived")
    try:
        header_shape, total = npy_header(io.BytesIO(header), url)
    except ValueError as fault:
        raise Dropped(f"the .npy header is damaged or cut short ({fault})") from None
    refuse_other_shape(header_shape, shape, url)
    if length not in (None, str(total)):
        raise UserError(f"{url} has {length} bytes, and its .npy header says {total}: {OTHERWISE}")
    return total


def _refuse_errors(reply: requests.Response, url: str) -> None:
    """Raise Dropped if the server may send the file later, UserError if it refuses."""
    answer = f"the server answered {reply.status_code} {reply.reason}"
    if reply.status_code in (408, 429) or reply.status_code >= 500:
        after = reply.headers.get("Retry-After", "")
        raise Dropped(answer, min(float(after), LONGEST_PAUSE) if after.isdecimal() else 0.0)
    if reply.status_code not in (200, 206, 416):
        raise UserError(f"could not download {url}: {answer}; check the address, or {OTHERWISE}")


def _resumes(reply: requests.Response, size: int, note: dict) -> bool:
    """True if the reply continues the file of the note after `size` bytes. Some servers ignore If-Range."""
    if reply.status_code != 206 or not size:
        return False
    content_range = re.fullmatch(rf"bytes {size}-\d+/{note['bytes']}", reply.headers.get("Content-Range", ""))
    return content_range is not None and _validator(reply) in (None, note["validator"])


def _validator(reply: requests.Response) -> str | None:
    """Return the server's identifier of this version of the file, if any: a strong ETag, or the date."""
    etag = reply.headers.get("ETag", "W/")
    return reply.headers.get("Last-Modified") if etag.startswith("W/") else etag


def system_error(fault: Exception) -> str:
    """Return the system's error in a nested message of requests: "connection refused", "timed out", ..., or ""."""
    error = re.search(r"\[Errno -?\d+\] ([\w ]+)|timed out", str(fault))
    return (error[1] or error[0]).lower() if error else ""


def _read_note(note_path: Path, url: str) -> dict:
    """Read the note on the file at this address: url, validator, bytes, sha256; {} if there is none."""
    try:
        note = parse_json(note_path.read_text())
        return note if note["url"] == url and int(note["bytes"]) else {}
    except (FileNotFoundError, ValueError, TypeError, LookupError):  # there is none, or it is not one of ours
        return {}


def _size(path: Path) -> int:
    """Return the file's size in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.is_file() else 0
