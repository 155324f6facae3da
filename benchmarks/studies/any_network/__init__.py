"""Checks that any network is cut rightly: an oracle, random networks and a zoo of published ones."""
