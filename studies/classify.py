"""--mode classify: classify a folder's pictures by another folder's labelled ones; write a table and a page."""

from __future__ import annotations

import argparse
import base64
import csv
import html
import io
import os
import sys
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from tqdm import tqdm

from errors import Stop, UserError
from files import write_atomically
from settings import setting, to_path, whole
from sources.folders import Walk
from sources.pictures import WHITE, Paper, plural, read, readable, report
from studies.classifier import FOLDS, Classifier, PictureWarning, parts_to_leave_out
from training.checkpoints import CheckpointSettings
from training.config import gpus
from training.steps import STATISTICS, SUPPORT

SHOWN = 500  # query pictures on the page: the least sure ones
SIDE = 96  # pixels of a thumbnail
HEAD = ("file", "prediction")  # the table's first columns
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠", "'")  # a ' is put before these


def number_of_parts(text: str) -> int:
    """Read a number of parts: 0, or at least 2."""
    if text == "1":
        raise argparse.ArgumentTypeError("must be 0, or a whole number of at least 2: one part is all pictures")
    return whole(0)(text)


number_of_parts.metavar = "N"


@dataclass(frozen=True)
class ClassifySettings(CheckpointSettings):
    """The pictures, and how they are classified."""

    support: Path | None = setting(
        None, "folder with one folder of labelled pictures per class", to_path, metavar="DIR"
    )
    pictures: Path | None = setting(None, "folder of the pictures to classify", to_path, metavar="DIR", alias="query")
    out: Path = setting(Path("predictions.csv"), "table to write; a page is written beside it", to_path, metavar="FILE")
    query_statistics: str = setting(
        SUPPORT,
        "the pictures that batch norm takes its statistics from: the support set; or, if there are about equally many "
        "query pictures of each class, support and query pictures together, or the query pictures alone",
        choices=STATISTICS,
    )
    skip_bad: bool = setting(False, "leave out pictures that cannot be read, and name them")
    invert: bool = setting(
        False,
        "invert the pictures: they are light on dark and the training images dark on light, or vice versa",
    )
    folds: int = setting(
        FOLDS,
        "estimate the accuracy: leave out the support pictures in at most N parts, and classify each part by the "
        "others; 0: do not",
        number_of_parts,
    )
    n_test_mc_samp: int = setting(10, "noise samples of an inner step's loss", whole(1, 100_000))
    seed: int = setting(0, "seed of that noise", whole(0))
    gpu_id: str | None = setting(None, "GPU to use; -1 for none (default: CUDA_VISIBLE_DEVICES, or 0)", gpus)


class Guess(NamedTuple):
    """A prediction. file: the path below the folder of the query pictures. probabilities: [classes]."""

    file: str
    probabilities: np.ndarray


def classify(run: Path, settings: ClassifySettings) -> int:
    """Classify the query pictures by the support pictures. Write a table of file, prediction and a probability for each
    class, the least sure first, and a page beside it. Then leave out the support pictures, and add to the page how many
    of them are classified right. Return the exit code: 0, or 130 if Ctrl-C ended it; the results so far are then
    written. Raise UserError if a folder or a picture cannot be read, or if the classifier refuses the pictures.
    """
    out, query = settings.out, settings.pictures
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} is not a table's name: give one that ends with .csv")
    page_file = out.with_suffix(".html")
    refuse_unwritable(out, page_file)
    walk = Walk()
    labelled = walk.files_by_class(folder_of(settings.support, "support"))
    files, query_notes = query_files(folder_of(query, "query"))
    notes = [*walk.notes(), *query_notes]
    for note in notes:
        print(note, file=sys.stderr)
    labelled, files = readable_only(labelled, files, settings.skip_bad)
    remarks = []
    with messages(remarks, "support"):
        more = {"statistics": settings.query_statistics, "samples": settings.n_test_mc_samp, "seed": settings.seed}
        classifier = Classifier.load(run, **more, checkpoint=settings.checkpoint, invert=settings.invert)
        classifier.fit([file for _, file in labelled], [label for label, _ in labelled])
    right = np.full(len(labelled), np.nan)

    def write_page() -> None:
        texts, paper = remarks + notes, classifier.paper
        write(page_file, page(guesses, classifier.classes_, query, labelled, right, texts, paper))

    with Stop() as stop:
        with messages(remarks, "query"):
            guesses = classified(classifier, files, query, stop)
        if not guesses:
            return stopped("nothing is classified yet, and nothing is written")
        write(out, table(guesses, classifier.classes_))
        write_page()
        counted = f"{len(guesses)} of {len(files)}" if len(guesses) < len(files) else f"{len(files)}"
        sizes = f"{counted} {plural(files, 'picture')}, {len(classifier.classes_)} classes"
        print(f"{sizes}: {out} and {page_file}, the least sure first")
        print(*remarks, sep="\n", end="\n" * bool(remarks), flush=True)
        if settings.folds and not stop.asked:
            remarks.append(leave_out(classifier, settings.folds, [label for label, _ in labelled], right, stop))
            print(remarks[-1], flush=True)
            write_page()
    return stopped("the results so far are written") if stop.asked else 0


def stopped(what: str) -> int:
    print(f"interrupted: {what}", file=sys.stderr)
    return 130


def write(file: Path, content: str) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(file, content.encode("utf-8", "surrogateescape"))  # names as the disk has them
    except OSError as fault:
        raise UserError(f"cannot write {file} ({fault.strerror}): choose another --out") from fault


@contextmanager
def messages(remarks: list[str], which: str) -> Iterator[None]:
    """Add the classifier's warnings in a `with` block to `remarks`, and raise its ValueError as a UserError. which: the
    pictures, `support` or `query`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", PictureWarning)
        try:
            yield
        except ValueError as fault:
            raise UserError(f"{fault}") from fault
    warned = (one.message for one in caught if issubclass(one.category, PictureWarning))
    remarks += [f"warning: {which} pictures: {message}" for message in warned]


def classified(classifier: Classifier, files: list[Path], query: Path, stop: Stop) -> list[Guess]:
    """Classify the files, or only some of them after Ctrl-C. Return the guesses, the least sure first."""
    probabilities = []
    with tqdm(total=len(files), unit="picture", desc="classify", disable=None) as bar:
        for part in classifier.predict_parts(files):
            probabilities.extend(part)
            bar.update(len(part))
            if stop.asked:
                break
    names = [file.relative_to(query).as_posix() for file in files]
    return sorted(map(Guess, names, probabilities), key=lambda guess: guess.probabilities.max())


def leave_out(classifier: Classifier, folds: int, labels: list[str], right: np.ndarray, stop: Stop) -> str:
    """Leave out the support pictures as `Classifier.leave_out` does, and return a sentence on the accuracy. `right` [S]
    gets a 1 for each picture that is classified right and a 0 for the others. labels: the support pictures'."""
    parts = len(parts_to_leave_out(labels, folds))
    bar = tqdm(classifier.leave_out(folds), total=parts, unit="part", desc="leave out", disable=None)
    for places, probabilities in bar:
        right[places] = classifier.classes_[probabilities.argmax(-1)] == np.array(labels)[places]
        if stop.asked:
            break
    return remark_on(right, parts, len(parts_to_leave_out(labels, len(labels))))


def refuse_unwritable(out: Path, page_file: Path) -> None:
    """Raise UserError if these files could not be written, or if the user has other files with these names."""
    for file, beginning in ((out, ",".join([*HEAD, ""])), (page_file, PAGE.partition("<html")[0])):
        if file.is_dir():
            raise UserError(f"--out: {file} is a folder: choose another name")
        if file.exists() and not is_ours(file, beginning.encode()):
            raise UserError(f"--out: {file} exists, and --mode classify did not write it: choose another name")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"cannot write {out} ({there} is not a folder that you can write into): choose another --out")


def is_ours(file: Path, beginning: bytes) -> bool:
    """True if this file is empty, or begins like the files that --mode classify writes."""
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
    """Return all pictures below a folder, by name, and notes on other files. Raise UserError if there is none."""
    walk = Walk()
    files = walk.pictures_below(folder)
    if not files:
        raise UserError("; ".join([f"there is no picture below {folder}: give another --query", *walk.notes()]))
    return files, walk.notes()


def readable_only(
    labelled: list[tuple[str, Path]], files: list[Path], skip_bad: bool
) -> tuple[list[tuple[str, Path]], list[Path]]:
    """Return the support pictures, with their labels, and the query pictures that can be read. Raise UserError if one
    cannot and skip_bad is False, or if a class or the query set has none left."""
    good, bad = readable([file for _, file in labelled] + files, skip_bad)
    good, groups = set(good), {"query picture": files}
    for label, file in labelled:
        groups.setdefault(f"picture of the class {label}", []).append(file)
    for what, members in groups.items():
        if good.isdisjoint(members):
            names = set(map(str, members))
            raise UserError(f"no {what} is left: {report([fault for fault in bad if fault.args[0] in names])}")
    if bad:
        print(f"note: left out: {report(bad)}", file=sys.stderr)
    return [(label, file) for label, file in labelled if file in good], [file for file in files if file in good]


# ---- the table and the page


def remark_on(right: np.ndarray, parts: int, pictures: int) -> str:
    """Say how many support pictures were classified right when they were left out. right: 1 or 0, or NaN for one that
    was not left out. parts: the number of parts into which the `pictures` that can be left out were dealt."""
    known = right[~np.isnan(right)]
    if not known.size:
        return "leave-one-out: no class has two support pictures"
    hits, count = int(known.sum()), known.size
    low, high = (100 * share for share in stats.binomtest(hits, count).proportion_ci(method="wilson"))
    how = "leave-one-out" if parts == pictures else f"{parts}-fold cross-validation"
    share = f"{100 * hits / count:.1f} % ({hits} of {count}; 95 % interval {low:.0f} to {high:.0f} %)"
    return f"{how} accuracy on the support pictures: {share}"


def table(guesses: list[Guess], classes: np.ndarray) -> str:
    """Return the table as CSV."""
    columns = [escaped(str(label), HEAD) for label in classes]
    rows = [[*HEAD, *columns]]
    for guess in guesses:
        shares = [f"{share:.4f}" for share in guess.probabilities]
        rows.append([escaped(guess.file), columns[guess.probabilities.argmax()], *shares])
    return "".join(map(line_of, rows))


def escaped(name: str, reserved: Collection[str] = ()) -> str:
    """Return a name as a cell: with a ' before it if a spreadsheet would read it as a formula, if it is reserved, or if
    it begins with a '. To get the name back, remove one leading '."""
    return f"'{name}" if name.startswith(FORMULA) or name in reserved else name


def line_of(cells: list[str]) -> str:
    """Return a line of CSV. Cells with a line end of any kind are quoted."""
    file = io.StringIO(newline="")
    csv.writer(file, lineterminator="\r\n").writerow(cells)  # Python 3.10 quotes \r and \n only if they end a line here
    return file.getvalue().removesuffix("\r\n") + "\n"


def page(guesses, classes, query, labelled, right: np.ndarray, remarks: list[str], paper: Paper = WHITE) -> str:
    """Return the page, which holds all its pictures: the support set, and query pictures with their probabilities.

    query: the folder of the query pictures. labelled: class and file of each support picture. right: as in `remark_on`.
    """
    support = []
    for label in classes:
        hits = [(file, hit) for (name, file), hit in zip(labelled, right, strict=True) if name == label]
        shown = "".join(thumbnail(file, paper, "wrong" if hit == 0 else "") for file, hit in hits)
        support.append(f"<tr><th>{html.escape(str(label))}</th><td>{shown}</td></tr>")
    rows = []
    for guess in guesses[:SHOWN]:
        bars = ""
        for c in np.argsort(-guess.probabilities)[:3]:
            name, percent = html.escape(str(classes[c])), f"{100 * guess.probabilities[c]:.1f}"
            bars += f'<div class="bar"><i style="width:{percent}%"></i><span>{name} {percent} %</span></div>'
        image = thumbnail(query / guess.file, paper)
        rows.append(f"<tr><td>{image}</td><td>{html.escape(guess.file)}</td><td>{bars}</td></tr>")
    more = len(guesses) - SHOWN
    more = f"<p>The table has {more} more; their predictions are surer.</p>" if more > 0 else ""
    remarks = "".join(f"<p>{html.escape(remark)}</p>" for remark in remarks)
    return PAGE.format(support="\n".join(support), rows="\n".join(rows), more=more, remarks=remarks)


def thumbnail(file: Path, paper: Paper = WHITE, kind: str = "") -> str:
    """Return an img element that holds the picture; transparent areas get the colour `paper`."""
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
{remarks}
<h2>Support set</h2>
<p>A picture with an orange frame was classified wrong when it was left out of the support set.</p>
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
