"""Read a table that a person made: CSV in UTF-8, as editors and spreadsheets save it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from errors import UserError


def rows_of(file: Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """Read a table -> for each row, the number of its line and its cells; blank rows and a header of these columns are
    left out. Raise UserError if it is not CSV.

    A byte order mark is ignored. Bytes that are not UTF-8 become the characters that Python puts for such bytes in
    names of files.
    """
    try:
        text = file.read_bytes().decode("utf-8-sig", "surrogateescape")  # with the line ends of quoted cells
        reader = csv.reader(io.StringIO(text, newline=""), strict=True)
        rows = [(reader.line_num, row) for row in reader if row]
    except csv.Error as fault:
        raise UserError(f"{file} is not a table of {','.join(columns).upper()} ({fault})") from None
    return [(number, row) for number, row in rows if [cell.strip().lower() for cell in row] != [*columns]]
