"""What is believed without measuring."""
