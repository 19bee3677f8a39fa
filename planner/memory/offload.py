"""Weights that stay in host memory: --cpu-offload-gb and the offload groups (model_executor/offloader, 0.8 to 0.33).

Only the decoder's layers are offloaded (make_layers), whole parameters in the order in which they are built, until the
limit is reached or passed (uva.py _maybe_offload_to_cpu). Groups (prefetch.py, since 0.17): of every
--offload-group-size layers the last --offload-num-in-group leave the card, and buffers for --offload-prefetch-step of
them stay there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from planner.engine.defaults import Engine
from planner.memory.weights import StageWeights
from planner.model.architecture import Model
from planner.model.modules import Placement
from planner.units import GIB


def offloaded_bytes(model: Model, at: Placement, engine: Engine, stages: tuple[StageWeights, ...]) -> int:
    """Bytes that leave each card; of unequal pipeline stages, the least."""
    group, backend = int(engine.args.get("offload_group_size") or 0), engine.args.get("offload_backend", "auto")
    if backend == "prefetch" or (backend == "auto" and group > 0):
        return min(_in_groups(model, at, engine, stage, group) for stage in stages)
    limit = int(engine.cpu_offload_gb * GIB)
    if limit <= 0:
        return 0
    return min(_until(limit, _parameters(model, at, stage)) for stage in stages)


def _parameters(model: Model, at: Placement, stage: StageWeights) -> Iterator[int]:
    return (size for index in stage.layers for size in _layer(model, at, index))


def _layer(model: Model, at: Placement, index: int) -> list[int]:
    inside = replace(at, prefix=f"{model.layer_prefix}{index}.") if at.quantization is not None else at
    return [
        tensor.nbytes
        for module in model.layers[index].modules
        for tensor in module.tensors(inside)
        if tensor.kind == "param"
    ]


def _until(limit: int, sizes: Iterator[int]) -> int:
    total = 0
    for size in sizes:
        if total >= limit:
            break
        total += size
    return total


def _in_groups(model: Model, at: Placement, engine: Engine, stage: StageWeights, group: int) -> int:
    taken = int(engine.args.get("offload_num_in_group") or 1)
    step = int(engine.args.get("offload_prefetch_step") or 1)
    sizes = [sum(_layer(model, at, i)) for n, i in enumerate(stage.layers) if n % group >= group - taken]
    return sum(sizes) - min(step, len(sizes)) * max(sizes, default=0)
