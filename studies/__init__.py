"""Studies of a trained run (export, neural collapse, attacks), and the classification of a user's pictures."""
