"""Plans evaluated together: their weights stacked at common shapes, one forward pass for all of them."""
