"""R-SPAR."""
