"""Devices, files, caches, clocks."""
