"""Which producer channel every element of every activation comes from, found by running the network once."""
