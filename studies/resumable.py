"""A study over test tasks: it can be interrupted and resumed, and its result is computed once."""

from __future__ import annotations

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from errors import Stop
from training.logs import progress_bar
from training.test_results import ResultFiles

SAVE_EVERY = 10  # seconds


def run_study(
    files: ResultFiles, total: int, unit: str, compute: Callable, summarise: Callable, show: Callable, note=None
) -> int:
    """Compute the values of `total` test tasks, and print and write their summary. Return 0; or 130 if the user stops
    it; the next call then resumes. An existing result is printed, and not computed again.

    unit: the word for a task. compute(first): yields arrays [n,...], each with the values of the next n tasks, from
    task `first` on. summarise(values [total,...]): returns the result, a dictionary, which show(result) prints.
    note(values so far): returns a text for the progress bar.
    """
    result = files.read()
    was_read = result is not None
    if not was_read:
        values = compute_values(files, total, unit, compute, note)
        if len(values) < total:
            print(f"interrupted after {len(values)} {unit}s; the same command continues from there", file=sys.stderr)
            return 130
        result = summarise(np.array(values))
    else:
        print(f"computed before: {files.path} is used (delete it to compute it again)")
    with files.checked(was_read):
        files.show_and_write(result, show)
    return 0


def compute_values(files: ResultFiles, total: int, unit: str, compute: Callable, note=None) -> list[np.ndarray]:
    """Return the values of each task. After an interruption there are fewer, and `files.partial` has them, too."""
    values, saved = read_partial(files.partial)[: total - 1], time.time()  # at least one task is computed
    with Stop() as stop, progress_bar(total=total, initial=len(values), unit=unit, desc=files.latest.stem) as bar:
        for new in compute(len(values)):
            values += list(new)
            bar.update(len(new))
            if note:
                bar.set_postfix_str(note(values), refresh=False)
            if stop.asked or time.time() - saved > SAVE_EVERY:
                content = io.BytesIO()
                np.save(content, np.array(values))
                files.write_partial(content.getvalue())
                saved = time.time()
            if stop.asked or len(values) >= total:
                break
    return values


def read_partial(path: Path) -> list[np.ndarray]:
    """Return the values that an interrupted study saved; an empty list if there is no file, or if it is damaged."""
    try:
        return list(np.load(path, allow_pickle=False))
    except Exception:
        return []
