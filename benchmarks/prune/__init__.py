"""Prune a network of your own: the command `prune-gym prune`."""
