"""Measured launches beside predicted ones: how wrong the planner is, and the few constants that are fitted on them."""
