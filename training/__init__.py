"""Training and testing: the loops, the compiled step, devices, checkpoints and logs, results."""
