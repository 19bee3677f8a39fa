"""Model + engine args -> the bytes vLLM allocates for weights on each rank, by group, to the byte.

Sources: vllm/model_executor/layers (0.33) through the modules' own rules; distributed/utils.py get_pp_indices.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from planner.errors import Refusal
from planner.memory.allocator import block_bytes
from planner.model.architecture import Layer, Model
from planner.model.modules import GROUPS, Group, Module, Placement


@dataclass(frozen=True, kw_only=True)
class StageWeights:
    """What one rank of one pipeline stage holds, in bytes."""

    pp_rank: int
    layers: range
    groups: dict[Group, int]
    tensor_bytes: int
    """Sum over parameters, buffers and what else stays after loading."""
    block_bytes: int
    """The same in the allocator's blocks: what vLLM prints as "Model loading took"."""
    parameter_bytes: int
    """Parameters and buffers alone: what summing over model.parameters() and model.buffers() gives."""
    buffer_bytes: int
    """The part of parameter_bytes that no checkpoint stores: rotary caches, most of it."""


def pipeline_ranges(layers: int, stages: int) -> tuple[range, ...]:
    """Layers of each pipeline stage; the remainder goes to the stages counted from the second-last backwards.

    distributed/utils.py get_pp_indices (0.33), without VLLM_PP_LAYER_PARTITION.
    """
    counts = [layers // stages] * stages
    for i in range(2, layers % stages + 2):
        counts[-i] += 1
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return tuple(ranges)


def stage_weights(model: Model, at: Placement, pp_size: int, *, max_split: int | None) -> tuple[StageWeights, ...]:
    """Weights of rank 0 of each pipeline stage. Refusal where vLLM would refuse to shard the model so."""
    if pp_size > 1 and not model.supports_pp:
        raise Refusal(
            "pp_unsupported",
            "Pipeline parallelism is not supported for this model. Supported models implement the `SupportsPP` "
            "interface.",
            "--pipeline-parallel-size",
        )
    ranges = pipeline_ranges(len(model.layers), pp_size)
    sums = _Sums(at, max_split)
    stages = []
    for rank, indices in enumerate(ranges):
        first, last = rank == 0, rank == pp_size - 1
        parts: list[Iterable[Module]] = [model.everywhere]
        if first or at.towers_on_every_stage:
            parts.append(model.towers)
        if first:
            parts.append(model.first)
        if last:
            parts.append(model.last)
            if not first:
                parts.append(model.tied)
        stages.append(sums.stage(model, rank, indices, parts))
    return tuple(stages)


_Row = tuple[Group, int, int, int, int]
"""Group of a module, then its bytes: all, in blocks, as parameters, as buffers."""


class _Sums:
    """Adds up modules; equal layers are added up once."""

    def __init__(self, at: Placement, max_split: int | None) -> None:
        self.at, self.max_split = at, max_split
        self._layers: dict[object, tuple[_Row, ...]] = {}

    def stage(self, model: Model, rank: int, indices: range, parts: list[Iterable[Module]]) -> StageWeights:
        shared = {id(module): module for index in indices for module in model.layers[index].shared}
        rows = [row for part in (*parts, shared.values()) for row in self._rows(part, self.at)]
        for index in indices:
            rows.extend(self._layer(model, model.layers[index], index))
        groups: dict[Group, int] = dict.fromkeys(GROUPS, 0)
        blocks = parameters = buffers = 0
        for group, nbytes, in_blocks, as_parameters, as_buffers in rows:
            groups[group] += nbytes
            blocks += in_blocks
            parameters += as_parameters
            buffers += as_buffers
        return StageWeights(
            pp_rank=rank,
            layers=indices,
            groups=groups,
            tensor_bytes=sum(groups.values()),
            block_bytes=blocks,
            parameter_bytes=parameters + buffers,
            buffer_bytes=buffers,
        )

    def _layer(self, model: Model, layer: Layer, index: int) -> tuple[_Row, ...]:
        at, schemes = self.at, None
        if at.quantization is not None:
            at = replace(at, prefix=f"{model.layer_prefix}{index}.")
            schemes = at.quantization.layer_key(layer, at) if at.quantization else None
        key = (id(layer), schemes)
        if key not in self._layers:
            self._layers[key] = self._rows(layer.modules, at)
        return self._layers[key]

    def _rows(self, modules: Iterable[Module], at: Placement) -> tuple[_Row, ...]:
        rows = []
        for module in modules:
            nbytes = blocks = 0
            kinds = {"param": 0, "buffer": 0, "attr": 0}
            for tensor in module.tensors(at):
                nbytes += tensor.nbytes
                blocks += block_bytes(tensor.nbytes, self.max_split)
                kinds[tensor.kind] += tensor.nbytes
            rows.append((module.group, nbytes, blocks, kinds["param"], kinds["buffer"]))
        return tuple(rows)
