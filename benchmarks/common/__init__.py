"""Terminal, tables, provenance: imports nothing of benchmarks."""
