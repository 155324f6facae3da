"""What a plan scores: repair, run, predict, remember."""
