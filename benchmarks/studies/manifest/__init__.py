"""One command for every number of the docs: what makes it, with which code, and whether that is today's."""
