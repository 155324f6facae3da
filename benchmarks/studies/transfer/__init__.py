"""R-SPAR carried over."""
