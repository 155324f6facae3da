"""What every method works with."""
