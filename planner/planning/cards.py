"""How launches lie on cards: how many one takes, which tensor parallel sizes they allow, how it reaches other nodes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from planner.planning.goal import GPUS_PER_NODE
from planner.request import Inputs
from planner.units import ceil_div

PARALLEL_SIZES = ("tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size")


def cards_of(inputs: Inputs) -> int:
    """Cards that the flags given ask for."""
    return cards_asked(inputs.args)


def cards_asked(args: Mapping[str, Any]) -> int:
    """The same of a request or its engine arguments."""
    return math.prod(args.get(name) or 1 for name in PARALLEL_SIZES)


def tensor_parallel_sizes(gpus: int, per_node: int = GPUS_PER_NODE) -> list[int]:
    """Tensor parallel sizes worth trying on so many cards, largest first: within one node."""
    most = min(gpus, per_node)
    return sorted({size for size in range(1, most + 1) if gpus % size == 0 or size in (2, 4, 8)}, reverse=True)


def with_tensor_parallel(inputs: Inputs, size: int, per_node: int) -> Inputs:
    """The launch with this size, over Ray where it then needs several nodes."""
    sized = inputs
    if size != inputs.args.get("tensor_parallel_size", 1):
        sized = replace(inputs, args=inputs.args.with_(tensor_parallel_size=size))
    nodes = ceil_div(cards_of(sized), per_node)
    return replace(sized, args=sized.args.with_(**over_nodes(nodes, sized)))


def over_nodes(nodes: int, inputs: Inputs) -> dict[str, str]:
    """The arguments by which one engine reaches cards of other nodes: Ray places its workers there."""
    if nodes == 1:
        return {}
    ranks = {"data_parallel_backend": "ray"} if inputs.args.get("data_parallel_size", 1) > 1 else {}
    wanted = {"distributed_executor_backend": "ray", **ranks}
    return {name: value for name, value in wanted.items() if name not in inputs.args}
