"""plot.py's command line in this process, and what is on its page."""

import html.parser
import sys

import numpy as np
import pytest

import errors
import plot

QUICK = ("--dpi", 40, "--format", "png")


def draw(monkeypatch, *argv) -> None:
    """Run plot.py, which has to succeed."""
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, argv)])
    assert plot.main() == 0


def refused(capsys, monkeypatch, *argv) -> str:
    """Run plot.py, which has to leave with the exit code 2 -> its one sentence."""
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", ["plot.py", *map(str, argv)])
    with pytest.raises(SystemExit) as left:
        errors.run(plot.main)
    said = capsys.readouterr().err.splitlines()
    lines = [line for line in said if line and not line.startswith("plot: ")]  # that is the progress bar
    assert left.value.code == 2 and len(lines) == 1, lines
    return lines[0]


class Links(html.parser.HTMLParser):
    """The images, the links and the tags of a page that is fed to it."""

    def __init__(self):
        super().__init__()
        self.images, self.links, self.tags = [], [], set()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        attrs = dict(attrs)
        if tag == "img":
            assert attrs["alt"]
            self.images.append(attrs["src"])
        self.links += [attrs[k] for k in ("src", "href") if k in attrs]


def band(ax) -> np.ndarray:
    """The corners [N,2] of a panel's first band, sorted."""
    corners = ax.collections[0].get_paths()[0].vertices
    return np.unique(corners.round(9), axis=0)
