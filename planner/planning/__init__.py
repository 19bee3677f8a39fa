"""What to change so that a model fits: the ladder, the sweep, cards to take, and how fast it will be."""
