"""Downloads over networks and servers that fail, and what is on the disk whenever they stop."""

import json
import time
from functools import partial

import pytest
import requests

import files
from errors import UserError
from misbehaving_server import serve
from originals import BODY, SHAPE, record_disk
from sources import download

HALF = len(BODY) // 2
fetch = partial(download.download, shape=SHAPE, retries=5, timeout=60, wait=0.001)


@pytest.mark.parametrize(
    ("manners", "ranges"),
    [
        (["well"], [False]),
        (["no length"], [False]),
        (["in chunks"], [False]),
        (["no ETag"], [False]),
        (["packs"], [False]),
        (["packs, drops", "well"], [False, False]),
        (["drops", "drops", "well"], [False, True, True]),
        (["drops, no length", "no length"], [False, True]),
        (["drops, no ETag", "well"], [False, False]),
        (["sends nothing, no length", "well"], [False, False]),
        (["drops", "ignores Range"], [False, True]),
        (["drops", "500", "429", "408", "503", "well"], [False, True, True, True, True, True]),
        (["stalls", "well"], [False, True]),
        (["drops", "416", "well"], [False, True, False]),
        (["drops", "begins a byte later", "well"], [False, True, False]),
    ],
)
def test_a_download_survives(tmp_path, manners, ranges):
    path = tmp_path / "x.npy"
    with serve(BODY, *manners) as server:
        fetch(f"{server.url}/x.npy", path, timeout=0.5 if "stalls" in manners else 30)
        assert path.read_bytes() == BODY
        fetch(f"{server.url}/x.npy", path)  # asks nothing
    assert not (tmp_path / "x.npy.part").exists()
    assert [bool(asked) for asked in server.asked] == ranges


@pytest.mark.parametrize("second", ["well", "ignores If-Range"])
def test_two_versions_of_a_file_are_never_joined(tmp_path, second):
    with serve(BODY, "drops, then changes", second) as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy")
        assert (tmp_path / "x.npy").read_bytes() == server.body != BODY
    assert server.asked[1]


@pytest.mark.parametrize(
    ("manner", "words"),
    [
        ("404", "404"),
        ("403", "403"),
        ("html", "web page"),
        ("500", "500"),
        ("429", "429"),
        ("stalls", r"nothing arrived for 0\.1 seconds"),
        ("drops and ignores Range", "of 500128 bytes"),
        ("drops and ignores Range, no length", "only 250064 of 500128 bytes"),
        ("sends nothing, no length", "nothing arrived"),
        ("claims more", r"500228 bytes, and its \.npy header says 500128"),
        ("goes on, no length", "goes on after the 500128 bytes"),
    ],
)
def test_a_download_gives_up_with_a_sentence(tmp_path, manner, words):
    with serve(BODY, manner) as server, pytest.raises(UserError, match=words):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2, timeout=0.1 if manner == "stalls" else 30)
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [("SSLError", "certificate is not trusted; name a file of .* REQUESTS_CA_BUNDLE"), ("ProxyError", "HTTPS_PROXY")],
)
def test_a_certificate_or_a_proxy_is_at_fault_at_once(kind, words, tmp_path, monkeypatch):
    """requests calls both of them connection errors, which are tried again."""
    asked = []

    def get(*_, **__):
        asked.append(1)
        raise getattr(requests.exceptions, kind)("Max retries exceeded with url: / (Caused by ...)")

    monkeypatch.setattr(requests, "get", get)
    with pytest.raises(UserError, match=words):
        fetch("https://localhost/x.npy", tmp_path / "x.npy")
    assert len(asked) == 1


def test_a_download_of_another_array_is_refused_at_its_beginning(tmp_path):
    with serve(BODY, "stalls") as server, pytest.raises(UserError, match=r"shape \(1000, 500\), not \(500, 900\)"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", shape=(500, 900), timeout=1)
    with serve(BODY[:3] + BODY, "well") as server, pytest.raises(UserError, match=r"not an \.npy"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy")
    with serve(BODY[:100], "well") as server, pytest.raises(UserError, match="header is damaged or cut short"):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=1)
    assert len(server.asked) == 2 and [file.name for file in tmp_path.iterdir()] == ["x.npy.lock"]


def test_only_failures_in_a_row_count(tmp_path):
    with serve(BODY, "drops", "500", "drops", "500", "well") as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2)
    with serve(BODY, "500") as server, pytest.raises(UserError):
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=2)
    assert len(server.asked) == 3


def test_the_pauses_grow_or_are_the_servers(tmp_path, monkeypatch, capsys):
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    with serve(BODY, *["500"] * 8, "429 after 7", "503 after 86400", "503 after Monday", "well") as server:
        fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=11, wait=0.5)
    assert pauses == [0.5, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]
    with serve(BODY, "429 after 7", "well") as server:
        fetch(f"{server.url}/y.npy", tmp_path / "y.npy", wait=0.5)
    assert pauses[11:] == [7] and "trying again in 7 s" in capsys.readouterr().out


def test_a_later_run_goes_on_from_the_very_byte(tmp_path):
    path = tmp_path / "x.npy"
    with serve(BODY, "drops", "well") as server:
        with pytest.raises(UserError, match="resumes where"):
            fetch(f"{server.url}/x.npy", path, retries=0)
        begun = (tmp_path / "x.npy.part").stat().st_size
        assert 0 < begun < len(BODY)
        fetch(f"{server.url}/x.npy", path)
    assert path.read_bytes() == BODY
    assert server.asked == [None, f"bytes={begun}-"] and server.conditions == [None, server.etag]


def test_another_address_starts_afresh(tmp_path):
    with serve(BODY, "drops", "well") as server:
        with pytest.raises(UserError):
            fetch(f"{server.url}/x.npy", tmp_path / "x.npy", retries=0)
        fetch(f"{server.url}/y.npy", tmp_path / "x.npy")
    assert server.asked == [None, None]


def test_a_note_that_is_not_one_starts_afresh(tmp_path):
    with serve(BODY) as server:
        url = f"{server.url}/x.npy"
        for note in ("", "{", "[]", '"x"', json.dumps({"url": url}), json.dumps({"url": url, "bytes": None})):
            (tmp_path / "x.npy.json").write_text(note)
            (tmp_path / "x.npy.part").write_bytes(b"something")
            fetch(url, tmp_path / "x.npy")
            assert (tmp_path / "x.npy").read_bytes() == BODY
    assert server.asked == [None] * 6


@pytest.mark.parametrize("damaged", [BODY[:-1] + bytes([BODY[-1] ^ 1]), BODY[:HALF], BODY + b"x", b""])
def test_a_file_that_was_damaged_later_is_not_taken_for_whole(tmp_path, damaged):
    path = tmp_path / "x.npy"
    with serve(BODY) as server:
        fetch(f"{server.url}/x.npy", path)
        path.write_bytes(damaged)
        fetch(f"{server.url}/x.npy", path)
    assert path.read_bytes() == BODY and len(server.asked) == 2


def test_two_downloads_of_one_file(tmp_path):
    with files.locked(tmp_path / "x.npy.lock", ""), pytest.raises(UserError, match=r"is downloading .*x\.npy: wait"):
        fetch("http://127.0.0.1:9/x.npy", tmp_path / "x.npy", retries=0)


def test_a_download_survives_a_power_cut(tmp_path, monkeypatch):
    disk = record_disk(monkeypatch)
    path = tmp_path / "x.npy"
    with serve(BODY) as server:
        fetch(f"{server.url}/x.npy", path)
    there = disk.index(("rename", str(path)))
    assert ("sync", path.stat().st_ino, len(BODY)) in disk[:there]
    assert ("sync", path.stat().st_ino, 0) in disk[: disk.index(("rename", f"{path}.json"))]  # emptied before its note
    assert [event[1] for event in disk[there + 1 :]] == [tmp_path.stat().st_ino]
