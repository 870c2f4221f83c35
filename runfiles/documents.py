"""The tables and figures of README.md and docs/: written anew from the kept results, and compared with them.

A block of Markdown between two comments is the output of a command:

    <!-- python runfiles/study.py regularisers table accuracy -->
    ...
    <!-- end -->

A figure's comment names its file with --out; the file holds a digest of the numbers that it shows. Numbers in sentences
are in docs/results/numbers.toml: the file, the sentence or a part of it, the number as it stands there, and the command
that prints it, or the source of another author's number. sign = "-": the number is negative, and the sentence says
"behind" in place of the minus.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path

from catalogue import STUDIES, Study
from outcomes import Outcome, outcomes
from PIL import Image
from records import KEPT, ROOT, Record, rounded

from errors import UserError, user_error
from files import write_atomically, write_if_changed

try:
    import tomllib
except ImportError:  # Python 3.10, where pytest brings it
    import tomli as tomllib

PROGRAM = "python runfiles/study.py "
BLOCK = re.compile(rf"<!-- {PROGRAM}(.+?) -->\n(.*?)<!-- end -->", re.DOTALL)
NUMBERS = KEPT / "numbers.toml"
INTERVAL = re.compile(r"[-+]?\d+(?:\.\d+)? ± \d+(?:\.\d+)?")
Found = dict[str, list[Outcome]]  # the outcomes of each study, by its name
DIGEST = "Data"  # name of the PNG's text that holds the digest


def all_outcomes(records: list[Record]) -> Found:
    """Return the outcomes of all studies."""
    return {name: outcomes(study, records) for name, study in STUDIES.items()}


def files() -> list[Path]:
    """Return the files that have blocks."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def table(study: Study, name: str, found: list[Outcome]) -> str:
    """Return a study's table as Markdown, one for each kind of machine. Raise UserError if there is none."""
    if name not in study.tables:
        raise UserError(f"{study.name} has no table {name}: choose one of {', '.join(study.tables) or 'none'}")
    texts = [(one.machine, text) for one in found if (text := study.tables[name](one))]
    if not texts:
        raise UserError(f"there are no results of {study.name} yet: {PROGRAM}{study.name} makes them")
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"On {machine}:\n\n{text}" for machine, text in texts)


def cell(text: str, row: str, column: str) -> str:
    """Return the cell of a Markdown table in this row, named by its first cell or first two, and this column. Raise
    UserError if there is none."""
    columns = []
    for line in text.splitlines():
        cells = [one.strip() for one in line.strip("|").split("|")]
        columns = cells if column in cells else columns
        if row in (cells[0], " ".join(cells[:2])) and column in columns:
            return cells[columns.index(column)]
    raise UserError(f"there is no row {row!r} with a column {column!r}: look for them in the whole table")


def figure(study: Study, name: str, found: list[Outcome], file: Path) -> None:
    """Draw a study's figure into a file, unless that shows the same numbers already."""
    if name not in study.figures:
        raise UserError(f"{study.name} has no figure {name}: choose one of {', '.join(study.figures) or 'none'}")
    drawing, digest = drawn(study, name, found)
    if file.suffix != ".png" or digest_of(file) != digest:
        image, content = drawing(), io.BytesIO()
        more = {"metadata": {DIGEST: digest}} if file.suffix == ".png" else {}
        with user_error(f"{file} cannot be written", "choose .png, .pdf or .svg", ValueError):
            image.savefig(content, format=file.suffix[1:], dpi=110, **more)
        write_atomically(file, content.getvalue())


def drawn(study: Study, name: str, found: list[Outcome]) -> tuple[Callable, str]:
    """Return a function that draws a study's figure, and the digest of the numbers that it shows."""
    numbers = [numbers for one in found if (numbers := study.figures[name].numbers(one))]
    if not numbers:
        raise UserError(f"there are no results of {study.name} yet: {PROGRAM}{study.name} makes them")
    digest = hashlib.sha256(json.dumps(rounded(numbers[0]), sort_keys=True).encode()).hexdigest()
    return lambda: study.figures[name].draw(numbers[0]), digest


def digest_of(file: Path) -> str | None:
    """Return the digest of the numbers that a PNG shows; None if there is no file, or another one."""
    with contextlib.suppress(OSError, AttributeError), Image.open(file) as image:
        return image.text.get(DIGEST)


def run_command(words: str, found: Found) -> str:
    """Return what `study.py` prints with these words: a table or a cell."""
    with user_error(f"{PROGRAM}{words} prints nothing", "correct it", KeyError, IndexError, TypeError, ValueError):
        name, action, *what = shlex.split(words)
        text = table(STUDIES[name], what[0], found[name])
        return cell(text, *what[1:]) if action == "cell" else text


def anew(text: str, found: Found) -> str:
    """Return a document with its tables from these outcomes. Where there are no results, the table's place says how to
    make them. Figures' blocks are left as they are."""

    def block(match: re.Match) -> str:
        words = match[1]
        body = match[2] if " figure " in words else printed(words, found) + "\n"
        return f"<!-- {PROGRAM}{words} -->\n{body}<!-- end -->"

    return BLOCK.sub(block, text)


def figures(text: str) -> Iterator[tuple[Study, str, Path]]:
    """Yield study, name and file of the figures in a document."""
    for words in (match[1] for match in BLOCK.finditer(text) if " figure " in match[1]):
        name, _, what, _, file = shlex.split(words)
        yield STUDIES[name], what, ROOT / file


def write_all(records: list[Record]) -> None:
    """Write the tables and figures of all documents anew."""
    found = all_outcomes(records)
    for path in files():
        text = path.read_text(encoding="utf-8")
        write_if_changed(path, anew(text, found))
        for study, name, file in figures(text):
            figure(study, name, found[study.name], file)
    for sentence in wrong_numbers(found):
        print(sentence)


def wrong_numbers(found: Found) -> Iterator[str]:
    """Yield a sentence for each listed number that its command does not print or that is not where it should be, and
    for each interval that stands in a sentence and is not listed."""
    entries = tomllib.loads(NUMBERS.read_text(encoding="utf-8"))["number"]
    texts = {str(path.relative_to(ROOT)): sentences(path) for path in files()}
    for entry in entries:
        if entry["value"] not in entry["sentence"] or entry["sentence"] not in texts.get(entry["file"], ""):
            yield f"{entry['file']} has no sentence {entry['sentence']!r} with {entry['value']}"
        if "command" not in entry:
            continue
        number = printed(entry["command"].removeprefix(PROGRAM), found)
        value = entry.get("sign", "") + plain(entry["value"])
        if not has_number(plain(number), value):
            yield f"{entry['file']}: {entry['command']} prints {number}, and the sentence has {entry['value']}"
    for file, text in texts.items():
        listed = [entry["sentence"] for entry in entries if entry["file"] == file]
        for interval in dict.fromkeys(INTERVAL.findall(text)):
            if not any(interval in sentence for sentence in listed):
                yield f"{file}: {interval} stands in a sentence and is not in {NUMBERS.relative_to(ROOT)}"


def sentences(path: Path) -> str:
    """Return a document without its blocks, with single spaces."""
    return " ".join(BLOCK.sub("", path.read_text(encoding="utf-8")).split())


def printed(words: str, found: Found) -> str:
    """Return what `study.py` prints with these words, or the sentence with which it fails."""
    try:
        return run_command(words, found)
    except UserError as fault:
        return str(fault)


def has_number(text: str, number: str) -> bool:
    """True if the number stands in the text: the whole one, and not as the half-width of an interval."""
    return bool(re.search(rf"(?<![-\d.,])(?<!± ){re.escape(number)}(?![\d.])", text))


def plain(number: str) -> str:
    return number.replace("+", "").replace("**", "")


def stale(records: list[Record]) -> Iterator[str]:
    """Yield a sentence for each table, figure and number of the documents that these records do not give."""
    found = all_outcomes(records)
    for path in files():
        text = path.read_text(encoding="utf-8")
        for before, after in zip(BLOCK.finditer(text), BLOCK.finditer(anew(text, found)), strict=True):
            if before[2] != after[2]:
                yield f"{path.relative_to(ROOT)}: {PROGRAM}{before[1]} prints another table"
        for study, name, file in figures(text):
            if digest_of(file) != drawn(study, name, found[study.name])[1]:
                yield f"{file.relative_to(ROOT)} shows other numbers than {PROGRAM}{study.name} figure {name}"
    yield from wrong_numbers(found)
