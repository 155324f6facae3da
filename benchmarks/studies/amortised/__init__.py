"""R-SPAR amortised: taught on the training family, judged on networks it never saw."""
