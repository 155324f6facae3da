"""Studies of our own results, each a room with a command."""
