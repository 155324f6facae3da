"""Beliefs about plans without measuring them."""
