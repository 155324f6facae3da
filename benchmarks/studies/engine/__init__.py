"""One grid, one table and one plot for every study."""
