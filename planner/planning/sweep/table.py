"""The table: what a launch's rows share is worked out once, then filled in for all of them at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.engine import rules
from planner.engine.defaults import Engine
from planner.errors import InputError, Refusal
from planner.memory.budget import (
    available_memory,
    has_kv_cache,
    not_free,
    overhead_of,
    placement_of,
    sizes_buffers,
    weights_of,
    with_extras,
)
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from planner.memory.kv_cache.layout import make_layout
from planner.memory.kv_cache.plan import cache_model
from planner.memory.offload import offloaded_bytes
from planner.memory.overhead import Overhead
from planner.memory.verdict import taken_by_others
from planner.model.attention import MLAttention
from planner.planning.change import request_of
from planner.planning.sweep.grid import LAUNCH, SHAPE, Grid, quantized
from planner.planning.sweep.held import REASONS, Held, NoCache, Nothing
from planner.planning.sweep.shapes import Ints, Shapes, resolved
from planner.planning.throughput.table import COLUMNS, Rows, SpeedTable
from planner.request import Inputs, prepare

if TYPE_CHECKING:
    import pandas as pd

FITS, DOES_NOT_FIT, REFUSED = 0, 1, 2
STATUS = ("fits", "does_not_fit", "refused")


def sweep(request: Mapping[str, Any], grid: Grid) -> pd.DataFrame:
    """One row for each combination, in the order of Grid's fields, the last varying fastest."""
    first = {"gpu": grid.gpu[0]} if grid.gpu else {}
    return _Table(prepare({**request, **first}), grid.checked()).frame()


@dataclass(kw_only=True)
class _Columns:
    """Results of one launch over all shapes."""

    status: np.ndarray[Any, Any]
    reason: np.ndarray[Any, Any]
    numbers: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


_NUMBERS = ("weights_bytes", "model_loading_bytes", "available_kv_bytes", "bytes_per_block", "num_blocks", "tokens")


class _Table:
    """The sweep of one model."""

    def __init__(self, inputs: Inputs, grid: Grid) -> None:
        if inputs.ask_vllm or inputs.gpu.kind == "cpu":
            raise InputError("a sweep is over GPUs, of an architecture that vllm-fit knows")
        self.grid, self.base = grid, inputs
        self.cards = [replace(inputs, gpu=self._card(name)) for name in grid.gpu] or [inputs]
        self.reasons = {code: index for index, code in enumerate(REASONS)}
        self._overheads: dict[object, Overhead] = {}
        self._layouts: dict[object, tuple[Layout, str]] = {}
        self._shapes: dict[object, Shapes] = {}
        self._unlike: dict[int, tuple[list[Engine], Ints]] = {}
        self._speeds = SpeedTable(workload=inputs.workload) if inputs.workload is not None else None
        self._fast: list[tuple[_Columns, Ints]] = []
        """Where each launch's rows of _speeds belong."""

    def _card(self, name: str) -> Any:
        return prepare({**request_of(self.base), "gpu": name}).gpu

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        launches = list(self._launches())
        results = [self._launch(inputs, given) for inputs, given, _ in launches]
        self._fill_speeds()
        size = len(results[0].status)
        data: dict[str, Any] = {"gpu": _repeated([inputs.gpu.name for inputs, _, _ in launches], size)}
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            data[name] = np.repeat([given.get(name, 1) for _, given, _ in launches], size)
        data["quantization"] = _repeated([label or "" for _, _, label in launches], size)
        data["kv_cache_dtype"] = _repeated([given.get("kv_cache_dtype", "auto") for _, given, _ in launches], size)
        shapes = [self._shapes_of(inputs, given) for inputs, given, _ in launches]
        for name in SHAPE:
            data[name] = np.concatenate([getattr(shape, name) for shape in shapes])
        status = np.concatenate([result.status for result in results])
        data["status"] = _categorical(status, list(STATUS))
        reason = np.concatenate([result.reason for result in results])
        data["reason"] = _categorical(reason, list(self.reasons))
        speeds = COLUMNS if self._speeds is not None else ()
        for name in (*_NUMBERS, "max_concurrency", *speeds):
            data[name] = np.concatenate([result.numbers[name] for result in results])
        return pd.DataFrame(data)

    def _launches(self) -> Iterator[tuple[Inputs, dict[str, Any], str | None]]:
        """(card and quantization, engine arguments, the quantization's label) in the order of the grid's fields."""
        grid = self.grid
        prepared = {label: self._prepared(label) for label in grid.quantization}
        for inputs, tp, pp, label, kv in product(
            self.cards, grid.tensor_parallel_size, grid.pipeline_parallel_size, grid.quantization, grid.kv_cache_dtype
        ):
            given = {n: v for n, v in zip(LAUNCH, (tp, pp, kv), strict=True) if v is not None}
            yield replace(prepared[label], gpu=inputs.gpu), {**prepared[label].args, **given}, label

    def _prepared(self, label: str | None) -> Inputs:
        return prepare({**request_of(self.base), **quantized(label)}) if label else self.base

    def _shapes_of(self, inputs: Inputs, given: Mapping[str, Any]) -> Shapes:
        stages = given.get("pipeline_parallel_size", 1)
        key = (inputs.gpu.name, inputs.model.name, stages if inputs.version < (0, 15) else 0)
        if key not in self._shapes:
            self._shapes[key] = resolved(inputs, self.grid, stages)
        return self._shapes[key]

    def _launch(self, inputs: Inputs, given: Mapping[str, Any]) -> _Columns:
        shapes = self._shapes_of(inputs, given)
        result = _refused(len(shapes.engines))
        if inputs.refused is not None:
            result.reason[:] = self._code(inputs.refused.code)
            return result
        for code in filter(None, dict.fromkeys(shapes.codes)):
            result.reason[[c == code for c in shapes.codes]] = self._code(code)
        for rows, engine in self._groups(inputs, shapes, given):
            try:
                self._fill(result, rows, inputs, engine, shapes)
            except Refusal as refusal:
                result.reason[rows] = self._code(refusal.reason.code)
        return result

    def _groups(self, inputs: Inputs, shapes: Shapes, given: Mapping[str, Any]) -> Iterator[tuple[Ints, Engine]]:
        """Rows that share weights and a layout, with the launch's engine for the first of them."""
        drafted, lora = inputs.draft is not None, bool(inputs.args.get("enable_lora"))
        by_batch = sizes_buffers(inputs.model) or drafted or lora
        for rows in shapes.grouped(by_batch=by_batch, by_length=inputs.model.is_hybrid or drafted):
            first = shapes.engines[rows[0]]
            assert first is not None
            yield rows, _launched(first, given)

    def _fill(self, result: _Columns, rows: Ints, inputs: Inputs, engine: Engine, shapes: Shapes) -> None:
        model, gpu, quantization = inputs.model, inputs.gpu, inputs.quantization
        rules.check(model, gpu, engine, quantization)
        placement = placement_of(engine, quantization)
        if inputs.draft is not None:
            inputs.draft.check(engine)
            placement = inputs.draft.placement(placement)
        stages = with_extras(weights_of(model, engine, placement), model, engine, placement, inputs.draft)
        offloaded = offloaded_bytes(model, placement, engine, stages)
        in_budget = self._sums(inputs, engine, shapes, rows, len(stages), "in_budget")
        nothing = tuple(
            Overhead(activation_peak=0, persistent=0, non_torch=0, cuda_graph=0, graphs_in_budget=True) for _ in stages
        )
        requested, ceiling = available_memory(gpu, engine, stages, nothing, offloaded)
        given = engine.kv_cache_memory_bytes is not None
        available = [
            np.full(len(rows), most, dtype=np.int64) if given else most - used
            for most, used in zip(ceiling, in_budget, strict=True)
        ]
        held = self._held(inputs, engine, available, shapes, rows)
        reason = held.reason
        if has_kv_cache(model) and gpu.memory_bytes is not None and not gpu.unified:
            beside = self._sums(inputs, engine, shapes, rows, len(stages), "beside_kv")
            held_by = [
                stage.block_bytes - offloaded + np.maximum(0, room) + more
                for stage, room, more in zip(stages, available, beside, strict=True)
            ]
            over = np.max(held_by, axis=0) > gpu.memory_bytes - taken_by_others(inputs.memory_used)
            reason = np.where((reason == 0) & over, REASONS.index("oom_graph_capture"), reason)
        if not_free(gpu, engine, requested, inputs.memory_used):
            reason = np.full(len(rows), REASONS.index("free_memory_below_requested"))
        result.reason[rows] = reason
        result.status[rows] = np.where(reason == 0, FITS, DOES_NOT_FIT)
        result.numbers["weights_bytes"][rows] = np.array([s.tensor_bytes for s in stages])[held.tightest]
        result.numbers["model_loading_bytes"][rows] = np.array([s.block_bytes for s in stages])[held.tightest]
        result.numbers["available_kv_bytes"][rows] = np.stack(available)[held.tightest, np.arange(len(rows))]
        result.numbers["bytes_per_block"][rows] = held.bytes_per_block
        result.numbers["num_blocks"][rows] = held.blocks
        result.numbers["tokens"][rows] = held.tokens
        result.numbers["max_concurrency"][rows] = held.concurrency
        if self._speeds is not None and not model.is_pooling:
            fit = result.status[rows] == FITS
            chosen = rows[fit]
            held_at_mean = held.concurrency_at(max(1, round(self._speeds.workload.mean_len)))
            speed_rows = Rows(
                max_num_seqs=shapes.max_num_seqs[chosen],
                max_num_batched_tokens=shapes.max_num_batched_tokens[chosen],
                graph_tokens=shapes.graph_tokens[chosen],
                fits=np.broadcast_to(held_at_mean, len(rows))[fit],
            )
            self._speeds.add(inputs, engine, stages, held.kv_cache_dtype, speed_rows)
            self._fast.append((result, chosen))

    def _fill_speeds(self) -> None:
        if self._speeds is None:
            return
        columns, first = self._speeds.columns(), 0
        for result, rows in self._fast:
            for name, values in columns.items():
                result.numbers[name][rows] = values[first : first + len(rows)]
            first += len(rows)

    def _held(self, inputs: Inputs, engine: Engine, available: list[Ints], shapes: Shapes, rows: Ints) -> NoCache:
        if not has_kv_cache(inputs.model):
            return NoCache(available)
        layout, dtype = self._layout(inputs, engine)
        return Held(layout, dtype, engine, available, shapes, rows) if layout.groups else Nothing(available, dtype)

    def _layout(self, inputs: Inputs, engine: Engine) -> tuple[Layout, str]:
        """(the KV cache's layout, its dtype in the end)"""
        scheme = inputs.quantization
        checkpoint_dtype = checkpoint_kv_dtype(scheme.parameters, engine.vllm_version) if scheme else None
        parallel = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
        draft = inputs.draft.model if inputs.draft is not None else None
        length = engine.max_model_len if inputs.model.is_hybrid or draft is not None else 0
        key = (inputs.gpu.name, inputs.model.name, *parallel, engine.kv_cache_dtype, checkpoint_dtype, length)
        if key not in self._layouts:
            cache = cache_model(inputs.model, engine, inputs.gpu, checkpoint_dtype, draft)
            self._layouts[key] = make_layout(cache), cache.resolved_dtype
        return self._layouts[key]

    def _sums(self, inputs: Inputs, engine: Engine, shapes: Shapes, rows: Ints, stages: int, part: str) -> list[Ints]:
        """A part of the overhead of each stage for each row: scalar functions, called once for what they depend on."""
        firsts, like = self._distinct(inputs, shapes)
        sums = {
            last: np.array([getattr(self._overhead(inputs, engine, shape, last), part) for shape in firsts])[like[rows]]
            for last in {True, stages == 1}
        }
        return [sums[stages == 1]] * (stages - 1) + [sums[True]]

    def _distinct(self, inputs: Inputs, shapes: Shapes) -> tuple[list[Engine], Ints]:
        if id(shapes) not in self._unlike:
            model = inputs.model
            by_length = MLAttention in model.state_kinds or model.is_multimodal
            self._unlike[id(shapes)] = shapes.distinct(by_length=by_length)
        return self._unlike[id(shapes)]

    def _overhead(self, inputs: Inputs, engine: Engine, shape: Engine, last: bool) -> Overhead:
        launch = (engine.tensor_parallel_size, engine.pipeline_parallel_size, engine.kv_cache_dtype, last)
        key = (inputs.model.name, id(inputs.quantization), inputs.gpu.name, id(shape), *launch)
        if key not in self._overheads:
            self._overheads[key] = overhead_of(
                inputs.model, inputs.gpu, _with_shape(engine, shape), inputs.quantization, last_stage=last
            )
        return self._overheads[key]

    def _code(self, code: str) -> int:
        return self.reasons.setdefault(code, len(self.reasons))


def _refused(count: int) -> _Columns:
    numbers: dict[str, np.ndarray[Any, Any]] = {name: np.zeros(count, dtype=np.int64) for name in _NUMBERS}
    numbers |= {name: np.zeros(count) for name in ("max_concurrency", *COLUMNS)}
    return _Columns(
        status=np.full(count, REFUSED, dtype=np.int8), reason=np.zeros(count, dtype=np.int16), numbers=numbers
    )


def _launched(shape: Engine, given: Mapping[str, Any]) -> Engine:
    """A shape's engine with the launch's own arguments, none of which changes the shape on a GPU."""
    return replace(
        shape,
        tensor_parallel_size=given.get("tensor_parallel_size", 1),
        pipeline_parallel_size=given.get("pipeline_parallel_size", 1),
        kv_cache_dtype=given.get("kv_cache_dtype", "auto"),
        quantization=given.get("quantization"),
        args=shape.args.with_(**{**given, **{n: shape.args.get(n) for n in SHAPE}}),
    )


def _with_shape(engine: Engine, shape: Engine) -> Engine:
    return replace(
        engine,
        max_model_len=shape.max_model_len,
        max_num_seqs=shape.max_num_seqs,
        max_num_batched_tokens=shape.max_num_batched_tokens,
        cudagraph_capture_sizes=shape.cudagraph_capture_sizes,
        args=engine.args.with_(**{name: shape.args.get(name) for name in SHAPE}),
    )


def _repeated(labels: list[str], size: int) -> Any:
    """A column of few texts."""
    known = list(dict.fromkeys(labels))
    return _categorical(np.repeat([known.index(label) for label in labels], size), known)


def _categorical(codes: Any, labels: list[str]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(labels))
