"""Grids on workers."""
