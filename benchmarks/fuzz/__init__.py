"""Every reader against damaged files."""
