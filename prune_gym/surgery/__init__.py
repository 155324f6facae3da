"""A plan becomes a smaller network."""
