"""Training and testing: loops, compiled steps, devices, checkpoints, logs and results."""
