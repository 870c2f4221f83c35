"""Read runs, draw them, and show the pictures on a page, for plot.py."""
