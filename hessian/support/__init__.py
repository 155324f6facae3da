"""Names, files, modes, layouts, batches, processes."""
