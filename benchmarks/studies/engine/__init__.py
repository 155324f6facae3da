"""ONE grid x table x plot for every study."""
