"""One-offs behind single sentences of the docs."""
