"""The look of all figures."""

import os
import subprocess
import sys

from conftest import ROOT

SHOWN = (
    "import figures.style, matplotlib as m; print(m.rcParams['lines.linewidth'], m.rcParams['text.usetex'], "
    "m.rcParams['font.size'], m.get_backend())"
)


def test_figures_are_the_same_whatever_the_user_told_matplotlib(tmp_path):
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 9\ntext.usetex: True\nfont.size: 30\n")
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path), "MPLBACKEND": "no_backend"}
    done = subprocess.run(
        [sys.executable, "-c", SHOWN], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.lower().split() == ["1.5", "false", "8.0", "agg"], done.stderr
