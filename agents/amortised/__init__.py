"""Plans for networks never seen, learned from many: damages of layers, and the best plan by them."""
