"""Read a table of pictures and their labels."""

from __future__ import annotations

import os
from pathlib import Path

from errors import UserError
from sources.csv_rows import rows_of
from sources.folders import identity, normalized


def read_labels(file: Path) -> list[tuple[str, Path]]:
    """Read a table of FILE,LABEL, with a header or without -> (label, file) for each row. A relative path starts from
    the table's folder. Raise UserError if a row has no file or no label, if a file is not there, or if one is named
    twice."""
    labelled, lines = [], {}
    for number, row in rows_of(file, ("file", "label")):
        where = f"{file}, line {number}"
        if len(row) != 2:
            raise UserError(f"{where} is not FILE,LABEL: {','.join(row)!r}")
        name, label = row[0], normalized(row[1].strip())
        if not name.strip() or not label:
            raise UserError(f"{where} has no {'label' if name.strip() else 'file'}: add it, or remove the line")
        if any("\udc80" <= letter <= "\udcff" for letter in label):
            raise UserError(f"{where} has a label that is not UTF-8: save the table in UTF-8")
        paths = [file.parent / name, file.parent / name.strip()]
        picture = next((path for path in paths if os.path.isfile(path)), None)
        if picture is None:
            raise UserError(
                f"{where} names {paths[1]}, which is not there: correct it (a path begins in the table's folder), or "
                f"save the table in UTF-8"
            )
        before, given = lines.setdefault(identity(picture), (number, label))
        if given != label:
            raise UserError(f"{where} gives {picture} the label {label!r}, and line {before} {given!r}: keep one")
        if before != number:
            raise UserError(f"{where} names {picture} again, after line {before}: name it once")
        labelled.append((label, picture))
    if not labelled:
        raise UserError(f"{file} names no picture: add lines of FILE,LABEL")
    return labelled
