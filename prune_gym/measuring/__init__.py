"""Scores of plans: repair, run, predict, remember."""
