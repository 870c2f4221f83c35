"""docs/how_it_works.md tells the way of an iteration as a run goes it."""

import re
import sys
from unittest import mock

import layers
from conftest import ROOT, SMALL, succeed

PAGE = ROOT / "docs/how_it_works.md"


def named() -> list[tuple[str, str]]:
    """Return the files and functions that the page names, in order."""
    section = PAGE.read_text().split("## The way of an iteration")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`, `(?:\w+\.)?(\w+)`", section, re.MULTILINE)


def test_the_page_tells_the_way_of_an_iteration(data_dir, tmp_path):
    """From the command line to the first layer: every function that is called, and no other."""
    ways, conv = [], layers.conv

    def watched(*args):
        frame, way = sys._getframe(1), [("layers.py", "conv")]
        while frame and way[-1] != ("main.py", "main"):
            code, frame = frame.f_code, frame.f_back
            if code.co_filename.startswith(str(ROOT)) and "site-packages" not in code.co_filename:
                way.append((code.co_filename.removeprefix(f"{ROOT}/"), code.co_name))
        ways.append(way[::-1])
        return conv(*args)

    with mock.patch.object(layers, "conv", watched):
        flags = ("--savedir", tmp_path / "a", "--data_dir", data_dir, *SMALL, "--n_train_iters", 0, "--val_every", 0)
        succeed("main.py", *flags)
    assert ways[0] == named()
    functions = [name for _, name in named()]
    assert len(functions) == len(set(functions)) <= 10 and len({file for file, _ in named()}) <= 8
