"""Numbers of a GPU: what pruning a network of ImageNet's size takes there."""
