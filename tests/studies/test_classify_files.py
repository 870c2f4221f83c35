"""The files that --mode classify reads and writes: query folders, the table's cells, and what is never replaced."""

import csv
import os
import re

import numpy as np
import pytest
from PIL import Image

from errors import UserError
from studies import classify, classify_page
from studies.classify_page import Guess
from studies.left_out import LeftOut


def read(text):
    return list(csv.DictReader(text.splitlines(keepends=True)))


def test_every_column_has_a_name_of_its_own_and_a_prediction_is_its_columns():
    classes = np.array(["'file", "file", "other", "prediction"])
    likely = np.eye(4) * 0.7 + 0.075
    rows = read(classify_page.table([Guess(f"{c}.png", likely[c]) for c in range(4)], classes, False))
    assert list(rows[0]) == ["file", "prediction", "''file", "'file", "other", "'prediction"]
    assert [row["file"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    assert [row[row["prediction"]] for row in rows] == ["0.7750"] * 4


def test_no_cell_is_a_formula_and_every_name_comes_back():
    names = ["=1+1", "+1", "-a", "@c", "\tb", "\rx", "\nx", "'q", "＝1", "plain", " a ", "a,b", 'a"b', "a\rb", "a\nb"]
    classes = np.array(names)
    text = classify_page.table([Guess(name, np.eye(len(names))[i]) for i, name in enumerate(names)], classes, False)
    header, *rows = csv.reader(text.splitlines(keepends=True))
    cells = [cell for row in ([header, *rows]) for cell in row]
    assert not [cell for cell in cells if cell[:1] in "=+-@\t\r\n＝" and cell]
    for cells in (header[2:], [row[0] for row in rows], [row[1] for row in rows]):
        assert [cell.removeprefix("'") for cell in cells] == names
    assert 'a\rb"' in text and "\r\n" not in text  # every line end in a cell is in quotes, whichever it is


def test_names_as_the_disk_has_them_are_in_the_table():
    name = os.fsdecode(b"Zo\xeb")
    text = classify_page.table([Guess(name, np.array([1.0]))], np.array([name]), False)
    assert text.encode("utf-8", "surrogateescape") == b"file,prediction,Zo\xeb\nZo\xeb,Zo\xeb,1.0000\n"


def test_a_rejected_picture_has_a_prediction_that_is_no_columns_name():
    guesses = [Guess("a.png", np.array([0.6, 0.4]), True, 0.52), Guess("b.png", np.array([0.7, 0.3]), False, 0.9)]
    rows = read(classify_page.table(guesses, np.array(["one", "similarity"]), True))
    assert [row["prediction"] for row in rows] == ["none of these", "one"]
    assert list(rows[0].values()) == ["a.png", "none of these", "0.5200", "0.6000", "0.4000"]
    assert list(rows[0]) == ["file", "prediction", "similarity", "one", "'similarity"]


def left_out(truth, predicted, classes):
    made = LeftOut(truth, classes)
    made.predicted[:] = predicted
    return made


FIVE = left_out([0, 0, 0, 1, 1, 2, 3, 3], [0, 1, 4, 1, 1, -1, 2, -1], 4)  # 4: rejected; -1: not left out


def test_a_row_by_class_has_its_counts_and_the_share_with_wilsons_interval():
    """Wilson's interval of 1 of 3 is 6.15 to 79.23 %, of 2 of 2 34.24 to 100 %, of 0 of 1 0 to 79.35 %."""
    names = np.array(["=a", "right", "c", "d"])
    header, *rows = csv.reader(classify_page.table_by_class(FIVE, names, True).splitlines())
    assert header == [*classify_page.LEFT_OUT_HEAD, "'=a", "'right", "c", "d", "none of these"]
    assert rows == [
        ["'=a", "3", "3", "1", "0.3333", "0.0615", "0.7923", "1", "1", "0", "0", "1"],
        ["'right", "2", "2", "2", "1.0000", "0.3424", "1.0000", "0", "2", "0", "0", "0"],
        ["c", "1", "0", "0", "", "", "", "0", "0", "0", "0", "0"],
        ["d", "2", "1", "0", "0.0000", "0.0000", "0.7935", "0", "0", "1", "0", "0"],
    ]
    header, *rows = csv.reader(classify_page.table_by_class(FIVE, names, False).splitlines())
    assert header[-1] == "d" and all(len(row) == len(header) for row in rows)


def cells(section):
    rows = re.findall("<tr>(.*?)</tr>", section)
    return [re.findall("<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_the_page_has_each_classes_accuracy_and_the_matrix():
    section = classify_page.section_by_class(np.array(["a", "b", "<c>", "d"]), FIVE)
    assert cells(section) == [
        ["class", "right", "accuracy", "95 % interval", "the others were taken for"],
        ["a", "1 of 3", "33.3 %", "6 to 79 %", "b (1), none of these (1)"],
        ["b", "2 of 2", "100.0 %", "34 to 100 %", ""],
        ["&lt;c&gt;", "not left out", "", "", ""],
        ["d", "0 of 1", "0.0 %", "0 to 79 %", "&lt;c&gt; (1)"],
        ["", "a", "b", "&lt;c&gt;", "d", "none of these"],
        ["a", "1", "1", "", "", "1"],
        ["b", "", "2", "", "", ""],
        ["&lt;c&gt;", "", "", "", "", ""],
        ["d", "", "", "1", "", ""],
    ]
    page = classify_page.page([], np.array(["a"]), None, [], LeftOut([], 1), [])
    assert "Confusion" not in page and "left out</h2>" not in page  # before a picture was left out


def test_a_page_of_many_classes_names_the_most_frequent_mistakes_in_place_of_the_matrix():
    counted = left_out([0] * 10, [7, 7, 7, 5, 5, 9, 0, 3, 4, 4], 200)
    section = classify_page.section_by_class(np.array([f"c{i}" for i in range(200)]), counted)
    assert "more than 30 classes" in section and len(cells(section)) == 201
    assert cells(section)[1] == ["c0", "1 of 10", "10.0 %", "2 to 40 %", "c7 (3), c4 (2), c5 (2), ..."]
    assert "more than 30" not in classify_page.section_by_class(np.arange(30), left_out([0], [0], 30))


def test_the_page_says_which_picture_is_of_none_of_the_classes(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    guesses = [Guess("a.png", np.array([0.6, 0.4]), True, 0.52), Guess("b.png", np.array([0.7, 0.3]), False, 0.9)]
    page = classify_page.page(guesses, np.array(["one", "two"]), tmp_path, [], LeftOut([], 2), [], reject=0.6)
    assert 'called "none of these" if its similarity to the nearest class is below 0.6.' in page
    shown = page[page.index("a.png</td>") :]
    assert shown.count("none of these") == 1 and shown.index("none of these") < shown.index("b.png</td>")
    assert shown.index("similarity 0.520") < shown.index("b.png</td>") < shown.index("similarity 0.900")
    page = classify_page.page([Guess("a.png", np.array([0.6, 0.4]))], np.arange(2), tmp_path, [], LeftOut([], 2), [])
    assert "similar" not in page and "none of these" not in page


def test_files_of_the_users_are_never_replaced(tmp_path):
    table, page, by_class = tmp_path / "mine.csv", tmp_path / "mine.html", tmp_path / "mine_leave_out.csv"
    classify.refuse_other_files(table, page, by_class)
    table.write_text(classify_page.table([Guess("a.png", np.array([1.0]))], np.array(["a"]), True))
    page.write_text(classify_page.page([], np.array([]), tmp_path, [], LeftOut([], 0), []))
    by_class.write_text(classify_page.table_by_class(LeftOut([0, 1], 2), np.array(["a", "b"]), False))
    classify.refuse_other_files(table, page, by_class)  # those of an earlier call
    others = (table, "file,predictions\n"), (table, "a,b\n"), (by_class, table.read_text())
    for file, content in ((page, "<!doctype html>\n<html>my page"), *others):
        before = file.read_bytes()
        file.write_text(content)
        with pytest.raises(UserError, match=f"{file.name} exists, and --mode classify did not write it"):
            classify.refuse_other_files(table, page, by_class)
        file.write_bytes(before)
    page.write_text("")
    classify.refuse_other_files(table, page, by_class)
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="gone is a broken link"):
        classify.refuse_other_files(*(tmp_path / "gone/new" / file.name for file in (table, page, by_class)))
    with pytest.raises(UserError, match=r"mine\.html is not a folder"):
        classify.refuse_other_files(*(page / "new" / file.name for file in (table, page, by_class)))
    with pytest.raises(UserError, match="too long"):
        classify.refuse_other_files(table, tmp_path / f"{240 * 'a'}.html", by_class)
    table.unlink()
    os.mkfifo(table)
    with pytest.raises(UserError, match=r"mine\.csv exists"):
        classify.refuse_other_files(table, page, by_class)


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
