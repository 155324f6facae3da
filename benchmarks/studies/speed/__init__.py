"""Speed against named baselines."""
