"""Published methods at equal budgets."""
