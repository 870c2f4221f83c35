"""The files that --mode classify reads and writes: query folders, the table's cells, and what is never replaced."""

import csv
import os

import numpy as np
import pytest

from errors import UserError
from studies import classify
from studies.classify import Guess


def read(text):
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_every_column_has_a_name_of_its_own_and_a_prediction_is_its_columns():
    classes = np.array(["'file", "file", "other", "prediction"])
    likely = np.eye(4) * 0.7 + 0.075
    rows = read(classify.table([Guess(f"{c}.png", likely[c]) for c in range(4)], classes))
    assert list(rows[0]) == ["file", "prediction", "''file", "'file", "other", "'prediction"]
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row[row["prediction"]] for row in rows] == ["0.7750"] * 4


def test_no_cell_is_a_formula_and_every_name_comes_back():
    names = ["=1+1", "+1", "-a", "@c", "\tb", "\rx", "\nx", "'q", "＝1", "plain", " a ", "a,b", 'a"b', "a\rb", "a\nb"]
    classes = np.array(names)
    text = classify.table([Guess(name, np.eye(len(names))[i]) for i, name in enumerate(names)], classes)
    header, *rows = csv.reader(text.splitlines(keepends=True))
    cells = [cell for row in ([header, *rows]) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r\n＝" and cell]
    for cells in (header[2:], [row[0] for row in rows], [row[1] for row in rows]):
        assert [cell.removeprefix("'") for cell in cells] == names
    assert 'a\rb"' in text and "\r\n" not in text  # every line end in a cell is in quotes, whichever it is


def test_names_as_the_disk_has_them_are_in_the_table():
    name = os.fsdecode(b"Zo\xeb")
    text = classify.table([Guess(name, np.array([1.0]))], np.array([name]))
    assert text.encode("utf-8", "surrogateescape") == b"file,prediction,Zo\xeb\nZo\xeb,Zo\xeb,1.0000\n"


def test_files_of_the_users_are_never_replaced(tmp_path):
    table, page = tmp_path / "mine.csv", tmp_path / "mine.html"
    classify.refuse_unwritable(table, page)
    table.write_text(classify.table([Guess("a.png", np.array([1.0]))], np.array(["a"])))
    page.write_text(classify.page([], np.array([]), tmp_path, [], np.array([]), []))
    classify.refuse_unwritable(table, page)  # those of an earlier call
    for file, content in ((page, "<!doctype html>\n<html>my page"), (table, "file,predictions\n"), (table, "a,b\n")):
        before = file.read_bytes()
        file.write_text(content)
        with pytest.raises(UserError, match=f"{file.name} exists, and --mode classify did not write it"):
            classify.refuse_unwritable(table, page)
        file.write_bytes(before)
    page.write_text("")
    classify.refuse_unwritable(table, page)
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(UserError, match=r"mine\.csv exists"):
        classify.refuse_unwritable(table, page)


def test_query_files_are_pictures_and_the_others_are_named(tmp_path):
    for name in ("b.PNG", "deep/a.jpg", "notes.txt", ".hidden/c.png", "deep/Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "deep/loop").symlink_to(tmp_path)
    files, notes = classify.query_files(tmp_path)
    assert files == [tmp_path / "b.PNG", tmp_path / "deep/a.jpg"]
    text = "\n".join(notes)
    assert f"1 file of a kind that is not read: {tmp_path}/notes.txt" in text
    assert f"{tmp_path}/.hidden" in text and "Thumbs.db" in text and "deep/loop" in text
    (tmp_path / "b.PNG").unlink()
    (tmp_path / "deep/a.jpg").unlink()
    with pytest.raises(UserError, match=r"there is no picture below .*notes\.txt"):
        classify.query_files(tmp_path)
