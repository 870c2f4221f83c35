"""Files of absurd size, in folders and archives."""

import struct
import tarfile
import types
import zipfile

import pytest

from errors import UserError
from sources import archives
from sources.mimgnet import read_tables


def zip_that_declares(path, size, data):
    """A zip of one member, train.csv; its directory declares this size, whatever data is."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", data)
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"PK\1\2") + 24, size)
    path.write_bytes(content)


def test_a_file_of_absurd_size_is_not_read(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    with open(folder / "train.csv", "wb") as file:
        file.truncate(1 << 40)  # a hole: it takes no space
    member = tarfile.TarInfo("train.csv")
    member.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(member.tobuf())
    zip_that_declares(tmp_path / "x.zip", (1 << 32) - 2, b"")
    for source in (folder, tmp_path / "x.tar", tmp_path / "x.zip"):
        with pytest.raises(UserError, match=r"train\.csv in .* has more than 64 MiB"):
            read_tables(source)


def test_a_link_in_a_tar_is_the_file_that_it_links(tmp_path):
    """GNU tar writes the second name of a file as a link."""
    (tmp_path / "first.csv").write_bytes(b"content")
    (tmp_path / "second.csv").hardlink_to(tmp_path / "first.csv")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(tmp_path / "first.csv", "first.csv")
        archive.add(tmp_path / "second.csv", "second.csv")
    found = archives.contents(tmp_path / "x.tar", lambda name: True)
    assert {name: content for name, content, _ in found} == dict.fromkeys(("first.csv", "second.csv"), b"content")
    member = tarfile.TarInfo("lost.csv")
    member.type, member.linkname = tarfile.LNKTYPE, "nowhere.csv"
    (tmp_path / "x.tar").write_bytes(member.tobuf() + bytes(1024))
    with pytest.raises(UserError, match="not a whole zip or tar archive"):
        list(archives.contents(tmp_path / "x.tar", lambda name: True))


def test_a_file_that_is_larger_than_it_says(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "LARGEST", 1 << 20)
    zip_that_declares(tmp_path / "x.zip", 10, bytes(1 << 22))
    with pytest.raises(UserError, match="not a whole zip"):
        read_tables(tmp_path / "x.zip")
    endless = types.SimpleNamespace(read=bytes)
    with pytest.raises(UserError, match="more than 1 MiB"):
        archives._read(endless, 10, "x", tmp_path)
