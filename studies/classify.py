"""Classify the pictures in a folder by those in another one: a table, and a page to look at."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

from datasets.folders import Walk
from datasets.pictures import read, readable, report
from errors import UserError
from files import write_atomically
from studies.classifier import BATCH, Classifier
from training.engine import QUERY

FEW = 20  # query pictures whose own statistics are no good ones
SHOWN = 500  # of the least sure pictures, on the page
SIDE = 96  # pixels of a thumbnail
HEAD = ("file", "prediction")  # the table's first columns
COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # before these a cell gets a '


class Guess(NamedTuple):
    """file: below the folder of the query pictures. likely [classes]: probabilities."""

    file: str
    likely: np.ndarray


def classify(run: Path, support: Path, query: Path, out: Path, skip_bad: bool = False, **settings) -> int:
    """Classify the pictures below `query` by those in SUPPORT/class/, and write `out`, a table of file, prediction and
    a probability for each class, the least sure first, and a page beside it. skip_bad: leave out pictures that cannot
    be read. settings: the Classifier's.

    UserError at a folder or a picture that cannot be read, and at what the learner cannot take.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} is no table: give it a name that ends with .csv")
    page_file = out.with_suffix(".html")
    refuse_unwritable(out, page_file)
    walk = Walk()
    labelled = walk.files_by_class(folder_of(support, "support"))
    files, notes = query_files(folder_of(query, "query"))
    notes = [*walk.notes(), *notes]
    for note in notes:
        print(note, file=sys.stderr)
    labelled, files = readable_only(labelled, files, skip_bad)
    try:
        classifier = Classifier.load(run, **settings)
        classifier.fit([file for _, file in labelled], [label for label, _ in labelled])
    except ValueError as fault:
        raise UserError(f"{fault}") from fault
    parts = np.array_split(np.arange(len(files)), -(-len(files) // BATCH))
    likely = [classifier.predict_proba([files[i] for i in part]) for part in tqdm(parts, desc="classify", disable=None)]
    names = [file.relative_to(query).as_posix() for file in files]
    guesses = sorted(map(Guess, names, np.concatenate(likely)), key=lambda guess: guess.likely.max())
    right = classifier.leave_one_out()
    remarks = [*remarks_on(right), *caution(len(files), classifier.statistics)]
    rows = table(guesses, classifier.classes_).encode("utf-8", "surrogateescape")  # names as the disk has them
    shown = page(guesses, classifier.classes_, query, labelled, right, remarks + notes).encode("utf-8", "replace")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, rows)
        write_atomically(page_file, shown)
    except OSError as fault:
        raise UserError(f"cannot write {out} ({fault.strerror}): choose another --out") from fault
    print(f"{len(files)} pictures, {len(classifier.classes_)} classes: {out} and {page_file}, the least sure first")
    print(*remarks, sep="\n")
    return 0


def refuse_unwritable(out: Path, page_file: Path) -> None:
    """UserError, before the work, where these could not be written after it, or are files of the user's."""
    for file, beginning in ((out, ",".join([*HEAD, ""])), (page_file, PAGE.partition("<html")[0])):
        if file.is_dir():
            raise UserError(f"--out: {file} is a folder: choose another name")
        if file.exists() and not is_ours(file, beginning.encode()):
            raise UserError(f"--out: {file} is there, and --mode classify did not write it: choose another name")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"cannot write {out} ({there} takes no files): choose another --out")


def is_ours(file: Path, beginning: bytes) -> bool:
    """True if nothing is lost by replacing this file: it begins as those that are written here, or is empty."""
    if not file.is_file():
        return False
    with open(file, "rb") as content:
        return content.read(len(beginning)) in (beginning, b"")


# ---- pictures


def folder_of(path: Path | None, flag: str) -> Path:
    if path is None:
        raise UserError(f"--{flag} is missing: name the folder of the {flag} pictures")
    if not path.is_dir():
        raise UserError(f"--{flag} {path} is not a folder: name the folder of the {flag} pictures")
    return path


def query_files(folder: Path) -> tuple[list[Path], list[str]]:
    """All pictures below a folder, by name, and sentences on what else is there. UserError where there is none."""
    walk = Walk()
    files = walk.pictures_below(folder)
    if not files:
        raise UserError("; ".join([f"there is no picture below {folder}: give another --query", *walk.notes()]))
    return files, walk.notes()


def readable_only(
    labelled: list[tuple[str, Path]], files: list[Path], skip_bad: bool
) -> tuple[list[tuple[str, Path]], list[Path]]:
    """The support pictures with their labels, and the query pictures, that can be read. UserError where some cannot and
    skip_bad is not set, and where a class, or the query, has none left."""
    good, bad = readable([file for _, file in labelled] + files, skip_bad)
    good, groups = set(good), {"query picture": files}
    for label, file in labelled:
        groups.setdefault(f"picture of the class {label}", []).append(file)
    for what, own in groups.items():
        if good.isdisjoint(own):
            names = set(map(str, own))
            raise UserError(f"no {what} is left: {report([fault for fault in bad if fault.args[0] in names])}")
    if bad:
        print(f"note: left out: {report(bad)}", file=sys.stderr)
    return [(label, file) for label, file in labelled if file in good], [file for file in files if file in good]


# ---- what is said of the result


def remarks_on(right: np.ndarray) -> list[str]:
    """Of the support pictures that could be left out: how many were classified right by the others."""
    known = right[~np.isnan(right)]
    if not known.size:
        return ["leave-one-out: no class has two support pictures"]
    hits = int(known.sum())
    low, high = stats.binomtest(hits, known.size).proportion_ci(method="wilson")
    share = (
        f"{100 * hits / known.size:.1f} % ({hits} of {known.size}; 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    return [f"leave-one-out accuracy on the support pictures: {share}"]


def caution(count: int, statistics: str) -> list[str]:
    if statistics == QUERY and count < FEW:
        return [
            f"batch norm takes its statistics from {count} query pictures, which is few: --query_statistics together "
            f"takes the support set's, too"
        ]
    return []


def table(guesses: list[Guess], classes: np.ndarray) -> str:
    columns = [escaped(str(label), HEAD) for label in classes]
    rows = [[*HEAD, *columns]]
    for guess in guesses:
        shares = [f"{share:.4f}" for share in guess.likely]
        rows.append([escaped(guess.file), columns[guess.likely.argmax()], *shares])
    return "".join(map(line_of, rows))


def escaped(name: str, reserved: Collection[str] = ()) -> str:
    """A name as a cell: a ' goes before what a spreadsheet would compute, before a reserved word, and before a ', so
    that a first ' is never the name's own."""
    return f"'{name}" if name.startswith(COMPUTED) or name in reserved else name


def line_of(cells: list[str]) -> str:
    """A line of a table, in quotes where there are line ends of any kind in it."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(cells)  # of the two, Python 3.10 quotes what ends a line
    return file.getvalue().removesuffix("\r\n") + "\n"


def page(guesses, classes, query: Path, labelled: list[tuple[str, Path]], right: np.ndarray, remarks: list[str]) -> str:
    """One file of HTML: the support set, and the pictures with their probabilities."""
    support = []
    for label in classes:
        own = [(file, right[i]) for i, (name, file) in enumerate(labelled) if name == label]
        shown = "".join(thumbnail(file, "wrong" if hit == 0 else "") for file, hit in own)
        support.append(f"<tr><th>{html.escape(str(label))}</th><td>{shown}</td></tr>")
    rows = []
    for guess in guesses[:SHOWN]:
        order = np.argsort(-guess.likely)[:3]
        bars = "".join(
            f'<div class="bar"><i style="width:{100 * guess.likely[c]:.1f}%"></i>'
            f"<span>{html.escape(str(classes[c]))} {100 * guess.likely[c]:.1f} %</span></div>"
            for c in order
        )
        image = thumbnail(query / guess.file)
        rows.append(f"<tr><td>{image}</td><td>{html.escape(guess.file)}</td><td>{bars}</td></tr>")
    more = f"<p>{len(guesses) - SHOWN} surer ones are in the table alone.</p>" if len(guesses) > SHOWN else ""
    told = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    return PAGE.format(support="\n".join(support), rows="\n".join(rows), more=more, told=told)


def thumbnail(file: Path, kind: str = "") -> str:
    """An img element that holds the picture."""
    image, stream = read(file), io.BytesIO()
    image.thumbnail((SIDE, SIDE))
    image.save(stream, "PNG")
    content = base64.b64encode(stream.getvalue()).decode()
    return f'<img class="{kind}" alt="{html.escape(file.name)}" src="data:image/png;base64,{content}">'


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
.bar {{ position: relative; width: 22em; background: #f2f2f2; margin: 1px 0; }}
.bar i {{ position: absolute; height: 100%; background: #9ecae1; }}
.bar span {{ position: relative; padding-left: 4px; }}
</style>
<h1>Classified pictures</h1>
{told}
<h2>Support set</h2>
<p>Framed: classified wrong when it is left out.</p>
<table>
{support}
</table>
<h2>Query pictures, the least sure first</h2>
{more}
<table>
{rows}
</table>
</html>
"""
