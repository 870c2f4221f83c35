"""Classify the pictures in a folder by those in another one: a table, and a page to look at."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import sys
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

from errors import Stop, UserError
from files import write_atomically
from sources.folders import Walk
from sources.pictures import WHITE, Paper, plural, read, readable, report
from studies.classifier import FOLDS, Classifier, PictureWarning, number_of_parts

SHOWN = 500  # of the least sure pictures, on the page
SIDE = 96  # pixels of a thumbnail
HEAD = ("file", "prediction")  # the table's first columns
COMPUTED = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # before these a cell gets a '


class Guess(NamedTuple):
    """file: below the folder of the query pictures. likely [classes]: probabilities."""

    file: str
    likely: np.ndarray


def classify(
    run: Path, support: Path, query: Path, out: Path, skip_bad: bool = False, folds: int = FOLDS, **settings
) -> int:
    """Classify the pictures below `query` by those in SUPPORT/class/, and write `out`, a table of file, prediction and
    a probability for each class, the least sure first, and a page beside it; then leave out support pictures in at most
    `folds` parts, and add to the page how many are classified right. skip_bad: leave out pictures that cannot be read.
    settings: the Classifier's. Ctrl-C ends it with what is computed: exit code 130.

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
    remarks = []
    with remarks_of_pictures(remarks, "support"), user_errors():
        classifier = Classifier.load(run, **settings)
        classifier.fit([file for _, file in labelled], [label for label, _ in labelled])
    right = np.full(len(labelled), np.nan)

    def write(content: Callable[[], str], file: Path) -> None:
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, content().encode("utf-8", "surrogateescape"))  # names as the disk has them
        except OSError as fault:
            raise UserError(f"cannot write {file} ({fault.strerror}): choose another --out") from fault

    def write_page() -> None:
        told = remarks + notes
        write(lambda: page(guesses, classifier.classes_, query, labelled, right, told, classifier.paper), page_file)

    with Stop() as stop:
        with remarks_of_pictures(remarks, "query"):
            guesses = classified(classifier, files, query, stop)
        if not guesses:
            return stopped("nothing is classified yet, and nothing is written")
        write(lambda: table(guesses, classifier.classes_), out)
        write_page()
        counted = f"{len(guesses)} of {len(files)}" if len(guesses) < len(files) else f"{len(files)}"
        sizes = f"{counted} {plural(files, 'picture')}, {len(classifier.classes_)} classes"
        print(f"{sizes}: {out} and {page_file}, the least sure first")
        print(*remarks, sep="\n", end="\n" * bool(remarks), flush=True)
        if folds and not stop.asked:
            remarks.append(leave_out(classifier, folds, [label for label, _ in labelled], right, stop))
            print(remarks[-1], flush=True)
            write_page()
    return stopped("what was computed is written") if stop.asked else 0


def stopped(what: str) -> int:
    print(f"interrupted: {what}", file=sys.stderr)
    return 130


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn what the classifier refuses in a `with` block into a UserError."""
    try:
        yield
    except ValueError as fault:
        raise UserError(f"{fault}") from fault


@contextmanager
def remarks_of_pictures(remarks: list[str], which: str) -> Iterator[None]:
    """Add to `remarks` what the classifier warns of in a `with` block. which: the pictures, `support` or `query`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PictureWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, PictureWarning):
            remarks.append(f"warning: {which} pictures: {warning.message}")


def classified(classifier: Classifier, files: list[Path], query: Path, stop: Stop) -> list[Guess]:
    """Classify the files; guesses, the least sure first. Where a stop is asked for, of a part of the files."""
    likely = []
    with tqdm(total=len(files), unit="picture", desc="classify", disable=None) as bar, user_errors():
        for part in classifier.predict_parts(files):
            likely.extend(part)
            bar.update(len(part))
            if stop.asked:
                break
    names = [file.relative_to(query).as_posix() for file in files]
    return sorted(map(Guess, names, likely), key=lambda guess: guess.likely.max())


def leave_out(classifier: Classifier, folds: int, labels: list[str], right: np.ndarray, stop: Stop) -> str:
    """Leave out the support pictures, as `Classifier.leave_out`; fill `right` [S] with 1 and 0, as `leave_one_out` has
    them -> a sentence about it. labels: of the support pictures."""
    parts = number_of_parts(labels, folds)
    for own, likely in tqdm(classifier.leave_out(folds), total=parts, unit="part", desc="leave out", disable=None):
        right[own] = classifier.classes_[likely.argmax(-1)] == np.array(labels)[own]
        if stop.asked:
            break
    return remark_on(right, parts, number_of_parts(labels, len(labels)))


def refuse_unwritable(out: Path, page_file: Path) -> None:
    """UserError, before the work, where these files could not be written after it, or are the user's own."""
    for file, beginning in ((out, ",".join([*HEAD, ""])), (page_file, PAGE.partition("<html")[0])):
        if file.is_dir():
            raise UserError(f"--out: {file} is a folder: choose another name")
        if file.exists() and not is_ours(file, beginning.encode()):
            raise UserError(f"--out: {file} is there, and --mode classify did not write it: choose another name")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"cannot write {out} ({there} is no folder that you can write into): choose another --out")


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


def remark_on(right: np.ndarray, parts: int, pictures: int) -> str:
    """Say how many of the support pictures that were left out were classified right by the others. parts: how many the
    `pictures` that can be left out were dealt into."""
    known = right[~np.isnan(right)]
    if not known.size:
        return "leave-one-out: no class has two support pictures"
    hits = int(known.sum())
    low, high = stats.binomtest(hits, known.size).proportion_ci(method="wilson")
    share = (
        f"{100 * hits / known.size:.1f} % ({hits} of {known.size}; 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    )
    how = "leave-one-out" if parts == pictures else f"{parts}-fold cross-validation"
    return f"{how} accuracy on the support pictures: {share}"


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


def page(guesses, classes, query, labelled, right: np.ndarray, remarks: list[str], paper: Paper = WHITE) -> str:
    """One file of HTML: the support set, and the pictures with their probabilities. query: the folder of these.
    labelled: class and file of each support picture."""
    support = []
    for label in classes:
        own = [(file, right[i]) for i, (name, file) in enumerate(labelled) if name == label]
        shown = "".join(thumbnail(file, paper, "wrong" if hit == 0 else "") for file, hit in own)
        support.append(f"<tr><th>{html.escape(str(label))}</th><td>{shown}</td></tr>")
    rows = []
    for guess in guesses[:SHOWN]:
        order = np.argsort(-guess.likely)[:3]
        bars = "".join(
            f'<div class="bar"><i style="width:{100 * guess.likely[c]:.1f}%"></i>'
            f"<span>{html.escape(str(classes[c]))} {100 * guess.likely[c]:.1f} %</span></div>"
            for c in order
        )
        image = thumbnail(query / guess.file, paper)
        rows.append(f"<tr><td>{image}</td><td>{html.escape(guess.file)}</td><td>{bars}</td></tr>")
    more = (
        f"<p>{len(guesses) - SHOWN} more, which are surer, are only in the table.</p>" if len(guesses) > SHOWN else ""
    )
    told = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    return PAGE.format(support="\n".join(support), rows="\n".join(rows), more=more, told=told)


def thumbnail(file: Path, paper: Paper = WHITE, kind: str = "") -> str:
    """An img element that holds the picture, on paper where it is transparent."""
    image, stream = read(file, paper), io.BytesIO()
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
<p>A framed picture was classified wrong when it was left out.</p>
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
