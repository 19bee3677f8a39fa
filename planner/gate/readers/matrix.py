"""The matrix of a pipeline's job: one run for each combination of its literal values."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from planner.gate.yaml_nodes import AnyNode, Scalar, Table
from planner.gate.yaml_nodes import Sequence as List

MAX_RUNS = 64
"""Of one job; what more would set stays open."""

Run = Mapping[str, str]


def runs_of(job: Table) -> Sequence[Run]:
    """What each run sets: GitHub's strategy.matrix with include and exclude, GitLab's parallel.matrix.

    None for a job without a matrix, and for one that is worked out elsewhere (fromJSON).
    """
    matrix = job.get("strategy", "matrix")
    if isinstance(matrix, Table):
        return _github(matrix)
    parts = [_product(table.entries) for table in job.tables("parallel", "matrix")]
    return [run for part in parts for run in part][:MAX_RUNS]


def _github(matrix: Table) -> list[Run]:
    axes = {name: node for name, node in matrix.entries.items() if name not in ("include", "exclude")}
    excluded = [_texts(table) for table in matrix.tables("exclude")]
    made = [run for run in _product(axes) if not any(one.items() <= run.items() for one in excluded)]
    runs: list[dict[str, str]] = [dict(run) for run in made]
    alone: list[Run] = []
    for table in matrix.tables("include"):
        more = _texts(table)
        fitting = [run for run, own in zip(runs, made, strict=True) if _agree(more, own)]
        for run in fitting:
            run |= more
        alone += [] if fitting else [more]
    return [*runs, *alone][:MAX_RUNS]


def _agree(more: Run, own: Run) -> bool:
    return all(own.get(name, value) == value for name, value in more.items())


def _product(axes: Mapping[str, AnyNode]) -> list[Run]:
    """Every combination."""
    values = [_values(name, node) for name, node in axes.items()]
    values = [one for one in values if one]
    if not values or math.prod(map(len, values)) > MAX_RUNS:
        return []
    return [{name: text for one in run for name, text in one.items()} for run in itertools.product(*values)]


def _values(name: str, node: AnyNode) -> list[Run]:
    """Of one axis; one that is a mapping sets each of its keys (`matrix.config.model`)."""
    items = node.items if isinstance(node, List) else (node,)
    return [_texts(one) if isinstance(one, Table) else {name: one.text} for one in items if not isinstance(one, List)]


def _texts(table: Table) -> dict[str, str]:
    return {name: node.text for name, node in table.entries.items() if isinstance(node, Scalar)}
