"""Budgets without a policy: the plan of least predicted loss on a target."""
