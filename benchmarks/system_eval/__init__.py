"""Speed of dense against pruned, and why."""
