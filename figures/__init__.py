"""Read runs, draw them, and show the pictures on a page, for plot.py."""

import os

os.environ.pop("MPLBACKEND", None)  # matplotlib refuses to be imported if it names none; figures/style.py sets ours
