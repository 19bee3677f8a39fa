"""A grid of launches of one model as a table: every combination estimated, 100,000 in under a second.

What does not depend on the batch and the context (weights, the KV cache's layout, what vLLM refuses) is worked out once
for each launch shape by the very functions that `estimate` calls; the rest is the same arithmetic over numpy arrays.
"""

from planner.planning.sweep.grid import Grid, request_of_row
from planner.planning.sweep.table import sweep

__all__ = ["Grid", "request_of_row", "sweep"]
