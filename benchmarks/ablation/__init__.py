"""The ablation: what every part is worth."""
