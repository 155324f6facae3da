"""Prices, orders, loss curves, plans."""
