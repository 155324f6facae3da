"""What networks have in common: plans for one never seen, learned from many."""
