"""Learners and their interface. model.py has MAML and the table of all."""
