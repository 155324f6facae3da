"""Workshop of the methods: what every one of them works with."""
