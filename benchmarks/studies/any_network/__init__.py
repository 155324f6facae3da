"""A judge of what is cut: an oracle without a map of channels, random networks and a zoo of published ones."""
