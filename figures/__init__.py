"""What plot.py draws of a run: reading it, drawing it, and the page that shows the pictures."""
