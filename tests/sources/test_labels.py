"""Tables of pictures and their labels."""

import os

import pytest

from errors import UserError
from sources.labels import read_labels


@pytest.fixture
def table(tmp_path):
    """A table's path, with pictures beside it."""
    for name in ("a.png", "b.png", "deep/c, d.png", " e.png", os.fsdecode(b"Zo\xeb.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path / "labels.csv"


@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("head", ["", "File, Label\r\n"])
def test_each_row_is_a_file_and_its_label(table, mark, head):
    rows = f'a.png,cat\r\n\r\n"deep/c, d.png"," a ""dog"" "\r\n e.png,ZoE\u0308\r\n{table.parent}/b.png,cat\r\n'
    table.write_bytes((mark + head + rows).encode())
    folder = table.parent
    assert read_labels(table) == [
        ("cat", folder / "a.png"), ('a "dog"', folder / "deep/c, d.png"), ("ZoË", folder / " e.png"),
        ("cat", folder / "b.png"),
    ]  # fmt: skip


def test_a_files_name_need_not_be_utf_8(table):
    table.write_bytes(b"Zo\xeb.png,cat\n")
    assert read_labels(table) == [("cat", table.parent / os.fsdecode(b"Zo\xeb.png"))]


def test_line_ends_in_quotes_stay_as_they_are(table):
    (table.parent / "x\ry.png").write_bytes(b"x")
    table.write_bytes(b'"x\ry.png",cat\r\n')
    assert read_labels(table) == [("cat", table.parent / "x\ry.png")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,cat\nb.png\n", "line 2 is not FILE,LABEL: 'b.png'"),
        ("a.png,cat,dog\n", "line 1 is not FILE,LABEL: 'a.png,cat,dog'"),
        ("file,label\na.png;cat\n", "line 2 is not FILE,LABEL: 'a.png;cat'"),
        ("a.png, \n", "line 1 has no label: add it, or remove the line"),
        (",cat\n", "line 1 has no file: add it, or remove the line"),
        ("a.png,cat\n\nx.png,cat\n", r"line 3 names .*/x\.png, which is not there: correct it"),
        ("deep,cat\n", "line 1 names .*/deep, which is not there"),
        ("a.png,cat\nb.png,cat\ndeep/../a.png,cat\n", r"line 3 names .*a\.png again, after line 1: name it once"),
        ("a.png,cat\nlink.png,dog\n", r"line 2 gives .*link\.png the label 'dog', and line 1 'cat': keep one"),
        ("a.png,cat\nhard.png,dog\n", r"line 2 gives .*hard\.png the label 'dog', and line 1 'cat': keep one"),
        ("a.png,Zo\udceb\n", "line 1 has a label that is not UTF-8: save the table in UTF-8"),
        ("file,label\n", r"labels\.csv names no picture: add lines of FILE,LABEL"),
        ('a.png,"cat\nb.png,dog\n', r"labels\.csv is not a table of FILE,LABEL \(unexpected end of data"),
        ('a.png,"cat" \nb.png,dog\n', r"labels\.csv is not a table of FILE,LABEL"),
        (f'a.png,"{"x" * 200_000}"\n', r"labels\.csv is not a table of FILE,LABEL \(field larger"),
    ],
)
def test_a_wrong_row_is_refused_by_its_line(table, text, message):
    (table.parent / "link.png").symlink_to("a.png")
    (table.parent / "hard.png").hardlink_to(table.parent / "a.png")
    table.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_labels(table)
