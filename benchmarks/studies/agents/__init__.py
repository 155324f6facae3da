"""Agents at equal measured evaluations."""
