"""Producer channels that the elements of every activation come from, found by running the network once."""
