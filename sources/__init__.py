"""Making datasets: the makers, and in table.py the table of all. data.py reads datasets without Pillow."""
