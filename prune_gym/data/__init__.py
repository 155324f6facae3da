"""Images as splits."""
