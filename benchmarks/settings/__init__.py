"""Configuration: schema, source, reading, names of methods."""
