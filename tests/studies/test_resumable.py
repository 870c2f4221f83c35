"""A study over test tasks: interrupted, resumed, computed once."""

import json
import os
import signal

import numpy as np
import pytest

from errors import UserError
from studies.resumable import run_study
from training.test_results import ResultFiles

IDENTITY = {"settings": {"way": 5}, "tasks": 5}


def study(folder, total=5, stop_after=None):
    """Run a study whose values of task i are [i, i], two tasks at once; return its exit code, the numbers of the tasks
    that were computed, and the summaries that were printed. It is interrupted in the task `stop_after`."""
    computed, printed = [], []

    def compute(first):
        for start in range(first, total, 2):
            tasks = list(range(start, min(start + 2, total)))
            computed.extend(tasks)
            if stop_after in tasks:
                os.kill(os.getpid(), signal.SIGINT)
            yield np.repeat(np.array(tasks, float)[:, None], 2, 1)

    files = ResultFiles(folder, "study", IDENTITY)
    code = run_study(files, total, "task", compute, lambda values: {"values": values.tolist()}, printed.append)
    return code, computed, printed, files


@pytest.mark.parametrize(("stop_after", "before", "after"), [(1, [0, 1], [2, 3, 4]), (4, [0, 1, 2, 3, 4], None)])
def test_an_interrupted_study_is_resumed(tmp_path, capsys, stop_after, before, after):
    """It continues with the first task that is missing. If it is asked to stop in the last one, it is done."""
    code, computed, printed, files = study(tmp_path, stop_after=stop_after)
    assert computed == before and code == (130 if after else 0)
    if after:
        assert not printed and np.load(files.partial).tolist() == [[i, i] for i in before]
        assert "interrupted after 2 tasks; the same command continues from there" in capsys.readouterr().err
        _, computed, printed, _ = study(tmp_path)
        assert computed == after
    assert printed == [{"values": [[i, i] for i in range(5)]}] and not files.partial.exists()
    assert files.read()["values"] == printed[0]["values"]


def test_of_saved_values_the_last_task_is_computed_again(tmp_path):
    """So that a study sees what it measures, if it is killed before its result is written."""
    files = ResultFiles(tmp_path, "study", IDENTITY)
    files.partial.parent.mkdir()
    with open(files.partial, "wb") as file:
        np.save(file, np.full((5, 2), 7.0))
    code, computed, printed, _ = study(tmp_path)
    assert code == 0 and computed == [4] and printed == [{"values": [[7, 7]] * 4 + [[4, 4]]}]


def test_a_result_is_computed_once_and_a_damaged_file_is_ignored(tmp_path, capsys):
    files = ResultFiles(tmp_path, "study", IDENTITY)
    files.partial.parent.mkdir()
    files.partial.write_bytes(b"no array")
    assert study(tmp_path)[:2] == (0, [0, 1, 2, 3, 4])
    code, computed, printed, _ = study(tmp_path)
    assert (code, computed) == (0, []) and printed[0]["values"] == [[i, i] for i in range(5)]
    assert f"computed before: {files.path} is used" in capsys.readouterr().out
    files.path.write_text(json.dumps(IDENTITY))  # its values are gone
    with pytest.raises(UserError, match=r"is damaged .*: delete it, and give the same command again"):
        run_study(files, 5, "task", None, None, lambda result: result["values"])
