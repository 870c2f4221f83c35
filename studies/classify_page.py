"""The tables and the page that --mode classify writes."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sources.pictures import WHITE, Paper, read, url_of
from studies.classifier import NONE
from studies.left_out import Accuracy, LeftOut

SHOWN = 500  # query pictures on the page: the least sure ones
WIDEST = 30  # classes of the largest confusion matrix on the page; the table beside it has every matrix
MISTAKES = 3  # classes that the page names as those that a class was taken for most often
SIDE = 96  # pixels of a thumbnail
HEAD = ("file", "prediction")  # the table's first columns; with --reject SIMILARITY is the next one
SIMILARITY = "similarity"
LEFT_OUT_HEAD = ("class", "pictures", "left_out", "right", "accuracy", "low", "high")  # those of the table by class
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # a ' is put before these


class Guess(NamedTuple):
    """A prediction. file: the path below the folder of the query pictures. probabilities: [classes]. rejected: True if
    the prediction is none of the classes. similarity: to the nearest class; NaN without --reject."""

    file: str
    probabilities: np.ndarray
    rejected: bool = False
    similarity: float = np.nan


# ---- tables


def table(guesses: list[Guess], classes: np.ndarray, rejects: bool) -> str:
    """Return the table of predictions as CSV. rejects: True if pictures could be rejected."""
    head = [*HEAD, SIMILARITY] if rejects else HEAD
    columns = [escaped(str(label), head) for label in classes]
    rows = [[*head, *columns]]
    for guess in guesses:
        shares = [f"{share:.4f}" for share in ([guess.similarity] * rejects + [*guess.probabilities])]
        prediction = NONE if guess.rejected else columns[guess.probabilities.argmax()]
        rows.append([escaped(guess.file), prediction, *shares])
    return "".join(map(line_of, rows))


def table_by_class(left_out: LeftOut, classes: np.ndarray, rejects: bool) -> str:
    """Return a CSV with a row for each true class: its support pictures, how many were left out, how many of these were
    classified right, their share with Wilson's 95 % interval, and how many were taken for each class. rejects: True if
    there is a column for rejected pictures."""
    columns = [escaped(str(label), LEFT_OUT_HEAD) for label in classes]
    rows = [[*LEFT_OUT_HEAD, *columns, *[NONE] * rejects]]
    pictures = np.bincount(left_out.truth, minlength=len(classes))
    for name, number, of_class, counts in zip(columns, pictures, left_out.accuracies(), left_out.matrix(), strict=True):
        shares = ["" if np.isnan(share) else f"{share:.4f}" for share in of_class[2:]]
        rows.append([name, number, of_class.count, of_class.right, *shares, *counts[: len(columns) + rejects]])
    return "".join(map(line_of, rows))


def escaped(name: str, reserved: Collection[str] = ()) -> str:
    """Return a name as a cell: with a ' before it if a spreadsheet would read it as a formula, if it is reserved, or if
    it begins with a '. To get the name back, remove one leading '."""
    return f"'{name}" if name.startswith(FORMULA) or name in reserved else name


def line_of(cells: Sequence) -> str:
    """Return a line of CSV. Cells with a line end of any kind are quoted."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(cells)  # Python 3.10 quotes \r and \n only if they end a line here
    return file.getvalue().removesuffix("\r\n") + "\n"


# ---- the page


def page(
    guesses: list[Guess],
    classes: np.ndarray,
    query: Path,
    labelled: list[tuple[str, Path]],
    left_out: LeftOut,
    remarks: list[str],
    paper: Paper = WHITE,
    reject: float | None = None,
) -> str:
    """Return the page, which holds all its pictures: the support set, and query pictures with their probabilities.

    query: the folder of the query pictures. labelled: class and file of each support picture. left_out: the predictions
    for the support pictures, in the same order. paper: the colour of transparent areas. reject: the similarity below
    which a picture is rejected.
    """
    support = []
    for label in classes:
        hits = [(file, hit) for (name, file), hit in zip(labelled, left_out.right, strict=True) if name == label]
        shown = "".join(thumbnail(file, paper, "wrong" if hit == 0 else "") for file, hit in hits)
        support.append(f"<tr>{head_cell(label)}<td>{shown}</td></tr>")
    rows = []
    for guess in guesses[:SHOWN]:
        bars = f'<div class="none">{NONE}</div>' if guess.rejected else ""
        bars += f"<div>similarity {guess.similarity:.3f}</div>" if reject is not None else ""
        for c in np.argsort(-guess.probabilities)[:3]:
            name, percent = html.escape(str(classes[c])), f"{100 * guess.probabilities[c]:.1f}"
            bars += f'<div class="bar"><i style="width:{percent}%"></i><span>{name} {percent} %</span></div>'
        image = thumbnail(query / guess.file, paper)
        rows.append(f"<tr><td>{image}</td><td>{html.escape(guess.file)}</td><td>{bars}</td></tr>")
    more = len(guesses) - SHOWN
    order, rest = ("sure", "their predictions are surer") if reject is None else ("similar", "they are more similar")
    more = f"<p>The table has {more} more; {rest}.</p>" if more > 0 else ""
    if reject is not None:
        more += f'<p>A picture is called "{NONE}" if its similarity to the nearest class is below {reject:g}.</p>'
    remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    by_class = section_by_class(classes, left_out) if left_out.done.any() else ""
    parts = {"support": "\n".join(support), "by_class": by_class, "rows": "\n".join(rows)}
    return PAGE.format(**parts, order=order, more=more, remarks=remarks)


def head_cell(label: object, kind: str = "row") -> str:
    """Return the head of a table's row or column."""
    return f'<th scope="{kind}">{html.escape(str(label))}</th>'


def section_by_class(classes: np.ndarray, left_out: LeftOut) -> str:
    """Return the accuracy of each class and, if it is not too wide, the confusion matrix."""
    names, counts = [*map(str, classes), NONE], left_out.matrix()
    rows = []
    for c, of_class in enumerate(left_out.accuracies()):
        others = [i for i in np.argsort(-counts[c], kind="stable") if i != c and counts[c, i]]
        taken = [f"{names[i]} ({counts[c, i]})" for i in others[:MISTAKES]] + ["..."] * (len(others) > MISTAKES)
        cells = [*numbers_of(of_class), html.escape(", ".join(taken))]
        rows.append(f"<tr>{head_cell(names[c])}" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    matrix = f"<p>The confusion matrix has more than {WIDEST} classes; it is in the table beside this page.</p>"
    if len(classes) <= WIDEST:
        matrix = MATRIX.format(matrix=matrix_of(names if left_out.rejected else names[:-1], counts))
    return BY_CLASS.format(rows="\n".join(rows), matrix=matrix)


def numbers_of(of_class: Accuracy) -> tuple[str, str, str]:
    """Return the cells of a class: how many were right, their share, and its interval."""
    if not of_class.count:
        return "not left out", "", ""
    share, low, high = (100 * share for share in of_class[2:])
    return f"{of_class.right} of {of_class.count}", f"{share:.1f} %", f"{low:.0f} to {high:.0f} %"


def matrix_of(names: list[str], counts: np.ndarray) -> str:
    """Return the rows of the confusion matrix. names: the names of the columns. A cell is darker if its share of the
    row is larger."""
    rows = ["<tr><th></th>" + "".join(head_cell(name, "col") for name in names) + "</tr>"]
    for c, row in enumerate(counts[:, : len(names)]):
        cells = ""
        for i, count in enumerate(row):
            colour = "158, 202, 225" if i == c else "240, 150, 80"
            style = f' style="background:rgba({colour}, {count / row.sum():.2f})"' if count else ""
            cells += f"<td{style}>{count or ''}</td>"
        rows.append(f"<tr>{head_cell(names[c])}{cells}</tr>")
    return "\n".join(rows)


def thumbnail(file: Path, paper: Paper = WHITE, kind: str = "") -> str:
    """Return an img element that holds the picture; transparent areas get the colour `paper`."""
    image = read(file, paper)
    image.thumbnail((SIDE, SIDE))
    return f'<img class="{kind}" alt="{html.escape(file.name)}" src="{url_of(image)}">'


BY_CLASS = """<h2>Support pictures that were left out</h2>
<p>Each support picture was left out, alone or with others, and classified by those that stayed. A picture that is alone
in its class always stayed.</p>
<table class="numbers">
<tr><th>class</th><th>right</th><th>accuracy</th><th>95 % interval</th><th>the others were taken for</th></tr>
{rows}
</table>
{matrix}
"""
MATRIX = """<h3>Confusion matrix</h3>
<p>A row is a true class. A column is the class that its pictures were taken for. The right ones are blue.</p>
<div class="scroll"><table class="numbers matrix">
{matrix}
</table></div>"""
PAGE = """<!doctype html>
<!-- written by --mode classify, which replaces it -->
<html lang="en">
<meta charset="utf-8">
<title>Classified pictures</title>
<style>
body {{ font: 15px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }}
img {{ height: 56px; margin: 2px; border: 1px solid #ccc; image-rendering: pixelated; vertical-align: middle; }}
img.wrong {{ border: 3px solid #d55e00; }}
td, th {{ padding: 2px 10px; text-align: left; vertical-align: middle; }}
.numbers {{ border-collapse: collapse; }}
.numbers td {{ border-bottom: 1px solid #ddd; }}
.scroll {{ overflow-x: auto; }}
.matrix td {{ border: 1px solid #ddd; min-width: 1.4em; text-align: center; padding: 2px 4px; }}
.matrix th[scope=col] {{ writing-mode: vertical-rl; transform: rotate(180deg); max-height: 12em; padding: 6px 2px; }}
.none {{ color: #b04a00; font-weight: bold; }}
.bar {{ position: relative; width: 22em; background: #f2f2f2; margin: 1px 0; }}
.bar i {{ position: absolute; height: 100%; background: #9ecae1; }}
.bar span {{ position: relative; padding-left: 4px; }}
</style>
<h1>Classified pictures</h1>
{remarks}
<h2>Support set</h2>
<p>A picture with an orange frame was classified wrong, or rejected, when it was left out of the support set.</p>
<table>
{support}
</table>
{by_class}<h2>Query pictures, the least {order} first</h2>
{more}
<table>
{rows}
</table>
</html>
"""
