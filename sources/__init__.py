"""Making datasets: downloads, archives, arrays and manifests; table.py has all makers."""
