"""Repairing the weights that stay."""
