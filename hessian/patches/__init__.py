"""Layers as matrices: patches, shared shifted products, position samples."""
