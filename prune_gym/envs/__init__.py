"""The Gymnasium environments and their pieces."""
