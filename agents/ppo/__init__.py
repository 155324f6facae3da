"""Plain PPO."""
