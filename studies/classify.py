"""Classify the pictures in a folder by those in another one: a table, and a page to look at."""

from __future__ import annotations

import base64
import csv
import html
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import stats
from tqdm import tqdm

from datasets.images import SUFFIXES, files_by_class, files_in, folders_in, prepare_file
from errors import UserError
from files import write_atomically
from studies.classifier import BATCH, Classifier
from training.engine import QUERY

FEW = 20  # query pictures whose own statistics are no good ones
SHOWN = 500  # of the least sure pictures, on the page
SIDE = 96  # pixels of a thumbnail


class Guess(NamedTuple):
    """file: below the folder of the query pictures. likely [classes]: probabilities."""

    file: str
    likely: np.ndarray


def classify(run: Path, support: Path, query: Path, out: Path, **settings) -> int:
    """Classify the pictures below `query` by those in SUPPORT/class/, and write `out`, a table of file, prediction and
    a probability for each class, the least sure first, and a page beside it. settings: the Classifier's.

    UserError at a folder or a picture that cannot be read, and at what the learner cannot take.
    """
    if out.suffix.lower() != ".csv":
        raise UserError(f"--out {out} is no table: give it a name that ends with .csv")
    page_file = out.with_suffix(".html")
    refuse_unwritable(out, page_file)
    labelled = files_by_class(folder_of(support, "support"))
    if empty := [folder for folder in folders_in(support) if folder.name not in {label for label, _ in labelled}]:
        raise UserError(f"--support {empty[0]} holds no picture: put some into it, or take it away")
    files = query_files(folder_of(query, "query"))
    refuse_unreadable([file for _, file in labelled] + files)
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
    shown = page(guesses, classifier.classes_, query, labelled, right, remarks).encode("utf-8", "replace")
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
    """UserError, before the work, where these could not be written after it."""
    if taken := [file for file in (out, page_file) if file.is_dir()]:
        raise UserError(f"--out: {taken[0]} is a folder: choose another name")
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise UserError(f"cannot write {out} ({there} takes no files): choose another --out")


# ---- pictures


def folder_of(path: Path | None, flag: str) -> Path:
    if path is None:
        raise UserError(f"--{flag} is missing: name the folder of the {flag} pictures")
    if not path.is_dir():
        raise UserError(f"--{flag} {path} is not a folder: name the folder of the {flag} pictures")
    return path


def query_files(folder: Path) -> list[Path]:
    """All files below a folder that could be pictures, by name, but what is hidden. UserError where there is none."""
    shown = (path for path in sorted(folder.rglob("*")) if "/." not in f"/{path.relative_to(folder).as_posix()}")
    folders = [folder, *(path for path in shown if path.is_dir())]
    files = [file for path in folders for file in files_in(path) if file.suffix.lower() in SUFFIXES]
    if not files:
        raise UserError(f"there is no picture below {folder} ({', '.join(sorted(SUFFIXES))}): give another --query")
    return files


def refuse_unreadable(files: list[Path]) -> None:
    """UserError where one of these is no picture."""
    for file in files:
        prepare_file(file, Image.Image.load)


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
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["file", "prediction", *classes])
    for guess in guesses:
        shares = [f"{share:.4f}" for share in guess.likely]
        writer.writerow([guess.file, classes[guess.likely.argmax()], *shares])
    return file.getvalue()


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

    def shrink(image: Image.Image) -> bytes:
        image = image.convert("RGBA")
        image.thumbnail((SIDE, SIDE))
        content = io.BytesIO()
        image.save(content, "PNG")
        return content.getvalue()

    content = base64.b64encode(prepare_file(file, shrink)).decode()
    return f'<img class="{kind}" alt="{html.escape(file.name)}" src="data:image/png;base64,{content}">'


PAGE = """<!doctype html>
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
