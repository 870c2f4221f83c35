"""What is asked of a trained run: its export, its neural collapse."""
