"""A grid of launches of one model as a table: every combination estimated, 100,000 in under a second.

What does not depend on the batch and the context (weights, the KV cache's layout, what vLLM refuses) is worked out once
for each launch shape by the very functions that `estimate` calls; the rest is the same arithmetic over numpy arrays.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from planner.engine import rules
from planner.engine.defaults import Engine, resolve
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
from planner.memory.kv_cache.plan import cache_model, demand_of
from planner.memory.offload import offloaded_bytes
from planner.memory.overhead import Overhead
from planner.memory.verdict import taken_by_others
from planner.model.attention import MLAttention
from planner.planning.change import request_of
from planner.planning.throughput.table import COLUMNS, Rows, SpeedTable
from planner.request import Inputs, prepare

if TYPE_CHECKING:
    import pandas as pd

    from planner.memory.weights import StageWeights

LARGEST_GRID = 20_000_000
FITS, DOES_NOT_FIT, REFUSED = 0, 1, 2
STATUS = ("fits", "does_not_fit", "refused")
_Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The values of each dimension; None is vLLM's own default, or what the request gives."""

    gpu: tuple[str, ...] = ()
    """Empty: the request's card."""
    tensor_parallel_size: tuple[int | None, ...] = (None,)
    pipeline_parallel_size: tuple[int | None, ...] = (None,)
    quantization: tuple[str | None, ...] = (None,)
    """Methods of --quantization; "what-if:awq" for a checkpoint to be made, "model:NAME" for another checkpoint."""
    kv_cache_dtype: tuple[str | None, ...] = (None,)
    max_model_len: tuple[int | None, ...] = (None,)
    max_num_seqs: tuple[int | None, ...] = (None,)
    max_num_batched_tokens: tuple[int | None, ...] = (None,)

    @property
    def size(self) -> int:
        """How many combinations it has."""
        counts = (len(getattr(self, entry.name)) for entry in fields(self))
        return int(np.prod([max(1, count) for count in counts]))

    def checked(self) -> Grid:
        """InputError where a dimension is empty, a value no engine argument, or the table too large for memory."""
        for entry in fields(self):
            if entry.name != "gpu" and not getattr(self, entry.name):
                raise InputError(f"{entry.name}: no values to sweep over")
        if self.size > LARGEST_GRID:
            raise InputError(f"{self.size:,} combinations: at most {LARGEST_GRID:,} fit in one table")
        if any(length is not None and length < 1 for length in self.max_model_len):
            raise InputError("max_model_len: a sweep needs lengths of at least 1")
        return self


_LAUNCH = ("tensor_parallel_size", "pipeline_parallel_size", "kv_cache_dtype")
_SHAPE = ("max_model_len", "max_num_seqs", "max_num_batched_tokens")


def sweep(request: Mapping[str, Any], grid: Grid) -> pd.DataFrame:
    """One row for each combination, in the order of Grid's fields, the last varying fastest."""
    table = _Table(prepare(_with_gpu(request, grid)), grid.checked())
    return table.frame()


def _with_gpu(request: Mapping[str, Any], grid: Grid) -> dict[str, Any]:
    return {**request, "gpu": grid.gpu[0]} if grid.gpu else dict(request)


def request_of_row(request: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
    """The request whose `estimate` a row of the table is. 0 in a refused row: what vLLM would have filled in."""
    made = {**request, "gpu": row["gpu"]}
    made |= _quantized(str(row["quantization"]) if row["quantization"] else None)
    return made | {name: row[name] for name in (*_LAUNCH, *_SHAPE) if row[name]}


def _quantized(label: str | None) -> dict[str, Any]:
    kind, _, name = (label or "").partition(":")
    if kind == "what-if":
        return {"what_if_quantization": name}
    if kind == "model":
        return {"model": name}
    return {"quantization": label} if label else {}


@dataclass(frozen=True, kw_only=True, eq=False)
class _Shapes:
    """Batch and context of every combination on one card, as vLLM resolves them."""

    engines: tuple[Engine | None, ...]
    """None where vLLM refuses it."""
    codes: tuple[str, ...]
    """Why; empty where it does not."""
    max_model_len: _Ints
    max_num_seqs: _Ints
    max_num_batched_tokens: _Ints

    @cached_property
    def graph_tokens(self) -> _Ints:
        """The largest batch that a CUDA graph runs; 0 when eager or refused."""
        return np.array([max(e.cudagraph_capture_sizes, default=0) if e is not None else 0 for e in self.engines])

    @cached_property
    def legal(self) -> _Ints:
        """Rows that vLLM takes."""
        return np.array([index for index, engine in enumerate(self.engines) if engine is not None], dtype=np.int64)

    def grouped(self, by_batch: bool, by_length: bool) -> list[_Ints]:
        """The legal rows, apart where the batch or the context decides more than arithmetic."""
        if not by_batch and not by_length:
            return [self.legal] if len(self.legal) else []
        parts = [self.max_num_batched_tokens, self.max_num_seqs] if by_batch else []
        _, group = np.unique(
            np.stack([*parts, *([self.max_model_len] if by_length else [])]), axis=1, return_inverse=True
        )
        return [rows for g in range(group.max() + 1) if len(rows := self.legal[group[self.legal] == g])]

    def distinct(self, by_length: bool) -> tuple[list[Engine], _Ints]:
        """(engines that differ in what overhead depends on, for each row the one it is like; -1 for refused rows)"""
        known: dict[object, int] = {}
        firsts: list[Engine] = []
        like = np.full(len(self.engines), -1)
        for index, engine in enumerate(self.engines):
            if engine is None:
                continue
            key = (engine.max_num_seqs, engine.max_num_batched_tokens, engine.cudagraph_capture_sizes)
            number = known.setdefault((*key, engine.max_model_len if by_length else 0), len(firsts))
            if number == len(firsts):
                firsts.append(engine)
            like[index] = number
        return firsts, like


@dataclass(kw_only=True)
class _Columns:
    """Results of one launch over all shapes."""

    status: np.ndarray[Any, Any]
    reason: np.ndarray[Any, Any]
    numbers: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)


_NUMBERS = ("weights_bytes", "model_loading_bytes", "available_kv_bytes", "bytes_per_block", "num_blocks", "tokens")
_REASONS = (
    "",
    "no_cache_blocks",
    "kv_too_small_for_one_request",
    "out_of_memory",
    "free_memory_below_requested",
    "oom_graph_capture",
)


class _Table:
    """The sweep of one model."""

    def __init__(self, inputs: Inputs, grid: Grid) -> None:
        if inputs.ask_vllm or inputs.gpu.kind == "cpu":
            raise InputError("a sweep is over GPUs, of an architecture that vllm-fit knows")
        self.grid, self.base = grid, inputs
        self.cards = [replace(inputs, gpu=self._card(name)) for name in grid.gpu] or [inputs]
        self.reasons = {code: index for index, code in enumerate(_REASONS)}
        self._overheads: dict[object, Overhead] = {}
        self._layouts: dict[object, tuple[Layout, str]] = {}
        self._shapes: dict[object, _Shapes] = {}
        self._unlike: dict[int, tuple[list[Engine], _Ints]] = {}
        self._speeds = SpeedTable(workload=inputs.workload) if inputs.workload is not None else None
        self._fast: list[tuple[_Columns, _Ints]] = []
        """Where each launch's rows of _speeds belong."""

    def _card(self, name: str) -> Any:
        return prepare({**request_of(self.base), "gpu": name}).gpu

    def frame(self) -> pd.DataFrame:
        import pandas as pd

        launches = list(self._launches())
        count = len(launches)
        results = [self._launch(*launch) for launch in launches]
        self._fill_speeds()
        size = len(results[0].status)
        data: dict[str, Any] = {"gpu": _repeated([inputs.gpu.name for inputs, _, _ in launches], size)}
        for name in ("tensor_parallel_size", "pipeline_parallel_size"):
            data[name] = np.repeat([given.get(name, 1) for _, given, _ in launches], size)
        data["quantization"] = _repeated([label or "" for _, _, label in launches], size)
        data["kv_cache_dtype"] = _repeated([given.get("kv_cache_dtype", "auto") for _, given, _ in launches], size)
        for name in _SHAPE:
            data[name] = np.concatenate([getattr(self._shapes_of(*launch[:2]), name) for launch in launches])
        status = np.concatenate([result.status for result in results])
        data["status"] = _categorical(status, list(STATUS))
        reason = np.concatenate([result.reason for result in results])
        data["reason"] = _categorical(reason, list(self.reasons))
        speeds = COLUMNS if self._speeds is not None else ()
        for name in (*_NUMBERS, "max_concurrency", *speeds):
            data[name] = np.concatenate([result.numbers[name] for result in results])
        assert len(status) == count * size
        return pd.DataFrame(data)

    def _launches(self) -> Iterator[tuple[Inputs, dict[str, Any], str | None]]:
        """(card and quantization, engine arguments, the quantization's label) in the order of the grid's fields."""
        grid = self.grid
        prepared = {label: self._prepared(label) for label in grid.quantization}
        for inputs, tp, pp, label, kv in product(
            self.cards, grid.tensor_parallel_size, grid.pipeline_parallel_size, grid.quantization, grid.kv_cache_dtype
        ):
            quantized = replace(prepared[label], gpu=inputs.gpu)
            given = {**quantized.args}
            given |= {n: v for n, v in zip(_LAUNCH, (tp, pp, kv), strict=True) if v is not None}
            yield quantized, given, label

    def _prepared(self, label: str | None) -> Inputs:
        return prepare({**request_of(self.base), **_quantized(label)}) if label else self.base

    # --- shapes -------------------------------------------------------------------------------------------------------

    def _shapes_of(self, inputs: Inputs, given: Mapping[str, Any]) -> _Shapes:
        stages = given.get("pipeline_parallel_size", 1)
        key = (inputs.gpu.name, inputs.model.name, stages if inputs.version < (0, 15) else 0)
        if key not in self._shapes:
            with _not_collecting():
                self._shapes[key] = self._resolved(inputs, stages)
        return self._shapes[key]

    def _resolved(self, inputs: Inputs, stages: int) -> _Shapes:
        grid, codes, rows = self.grid, [], []
        engines: list[Engine | None] = []
        bare = inputs.args.with_(pipeline_parallel_size=stages if stages > 1 else None)
        for values in product(grid.max_model_len, grid.max_num_seqs, grid.max_num_batched_tokens):
            args = bare.with_(**{n: v for n, v in zip(_SHAPE, values, strict=True) if v is not None})
            try:
                engine = resolve(
                    inputs.model,
                    inputs.gpu,
                    args,
                    inputs.version,
                    inputs.usage,
                    quantized=inputs.quantization is not None,
                )
            except Refusal as refusal:
                engines.append(None)
                codes.append(refusal.reason.code)
                rows.append(tuple(value or args.get(n) or 0 for n, value in zip(_SHAPE, values, strict=True)))
                continue
            if engine.auto_max_model_len:
                raise InputError("max_model_len = auto: a sweep needs a length")
            engines.append(engine)
            codes.append("")
            rows.append((engine.max_model_len, engine.max_num_seqs, engine.max_num_batched_tokens))
        columns = np.array(rows, dtype=np.int64).T
        return _Shapes(
            engines=tuple(engines),
            codes=tuple(codes),
            max_model_len=columns[0],
            max_num_seqs=columns[1],
            max_num_batched_tokens=columns[2],
        )

    # --- one launch ---------------------------------------------------------------------------------------------------

    def _launch(self, inputs: Inputs, given: Mapping[str, Any], _label: str | None) -> _Columns:
        shapes = self._shapes_of(inputs, given)
        result = _refused(len(shapes.engines))
        for code in filter(None, dict.fromkeys(shapes.codes)):
            result.reason[[c == code for c in shapes.codes]] = self._code(code)
        for rows, engine in self._groups(inputs, shapes, given):
            try:
                self._fill(result, rows, inputs, engine, shapes)
            except Refusal as refusal:
                result.reason[rows] = self._code(refusal.reason.code)
        return result

    def _groups(self, inputs: Inputs, shapes: _Shapes, given: Mapping[str, Any]) -> Iterator[tuple[_Ints, Engine]]:
        """Rows that share weights and a layout, with the launch's engine for the first of them."""
        drafted, lora = inputs.draft is not None, bool(inputs.args.get("enable_lora"))
        by_batch = sizes_buffers(inputs.model) or drafted or lora
        for rows in shapes.grouped(by_batch, inputs.model.is_hybrid or drafted):
            first = shapes.engines[rows[0]]
            assert first is not None
            yield rows, _launched(first, given)

    def _fill(self, result: _Columns, rows: _Ints, inputs: Inputs, engine: Engine, shapes: _Shapes) -> None:
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
        held = _NoCache(available)
        if has_kv_cache(model):
            own = checkpoint_kv_dtype(quantization.parameters, engine.vllm_version) if quantization else None
            layout, kv_dtype = self._layout(inputs, engine, own)
            if layout.groups:
                held = _Held(layout, engine, available, shapes.max_model_len[rows], shapes, rows)
            else:
                held = _Nothing(available)
            held.kv_cache_dtype = kv_dtype
        reason = held.reason
        if has_kv_cache(model) and gpu.memory_bytes is not None and not gpu.unified:
            beside = self._sums(inputs, engine, shapes, rows, len(stages), "beside_kv")
            held_by = [
                stage.block_bytes - offloaded + np.maximum(0, room) + more
                for stage, room, more in zip(stages, available, beside, strict=True)
            ]
            over = np.max(held_by, axis=0) > gpu.memory_bytes - taken_by_others(inputs.memory_used)
            reason = np.where((reason == 0) & over, _REASONS.index("oom_graph_capture"), reason)
        if not_free(gpu, engine, requested, inputs.memory_used):
            reason = np.full(len(rows), _REASONS.index("free_memory_below_requested"))
        result.reason[rows] = reason
        result.status[rows] = np.where(reason == 0, FITS, DOES_NOT_FIT)
        result.numbers["weights_bytes"][rows] = np.array([s.tensor_bytes for s in stages])[held.tightest]
        result.numbers["model_loading_bytes"][rows] = np.array([s.block_bytes for s in stages])[held.tightest]
        result.numbers["available_kv_bytes"][rows] = np.choose(held.tightest, available)
        result.numbers["bytes_per_block"][rows] = held.bytes_per_block
        result.numbers["num_blocks"][rows] = held.blocks
        result.numbers["tokens"][rows] = held.tokens
        result.numbers["max_concurrency"][rows] = held.concurrency
        if self._speeds is not None and not model.is_pooling:
            self._add_speeds(self._speeds, result, rows, inputs, engine, stages, held, shapes)

    def _add_speeds(
        self,
        speeds: SpeedTable,
        result: _Columns,
        rows: _Ints,
        inputs: Inputs,
        engine: Engine,
        stages: tuple[StageWeights, ...],
        held: _NoCache,
        shapes: _Shapes,
    ) -> None:
        """Of the rows that fit."""
        fit = result.status[rows] == FITS
        chosen = rows[fit]
        length = max(1, round(speeds.workload.mean_len))
        speeds.add(
            inputs,
            engine,
            stages,
            held.kv_cache_dtype,
            Rows(
                max_num_seqs=shapes.max_num_seqs[chosen],
                max_num_batched_tokens=shapes.max_num_batched_tokens[chosen],
                graph_tokens=shapes.graph_tokens[chosen],
                fits=np.broadcast_to(held.concurrency_at(length), len(rows))[fit],
            ),
        )
        self._fast.append((result, chosen))

    def _fill_speeds(self) -> None:
        if self._speeds is None:
            return
        columns, first = self._speeds.columns(), 0
        for result, rows in self._fast:
            for name, values in columns.items():
                result.numbers[name][rows] = values[first : first + len(rows)]
            first += len(rows)

    def _layout(self, inputs: Inputs, engine: Engine, checkpoint_dtype: str | None) -> tuple[Layout, str]:
        """(the KV cache's layout, its dtype in the end)"""
        parallel = (engine.tensor_parallel_size, engine.pipeline_parallel_size)
        draft = inputs.draft.model if inputs.draft is not None else None
        length = engine.max_model_len if inputs.model.is_hybrid or draft is not None else 0
        key = (inputs.gpu.name, inputs.model.name, *parallel, engine.kv_cache_dtype, checkpoint_dtype, length)
        if key not in self._layouts:
            cache = cache_model(inputs.model, engine, inputs.gpu, checkpoint_dtype, draft)
            self._layouts[key] = make_layout(cache), cache.resolved_dtype
        return self._layouts[key]

    def _sums(
        self, inputs: Inputs, engine: Engine, shapes: _Shapes, rows: _Ints, stages: int, part: str
    ) -> list[_Ints]:
        """A part of the overhead of each stage for each row: scalar functions, called once for what they depend on."""
        firsts, like = self._distinct(inputs, shapes)
        sums = {
            last: np.array([getattr(self._overhead(inputs, engine, shape, last), part) for shape in firsts])[like[rows]]
            for last in {True, stages == 1}
        }
        return [sums[stages == 1]] * (stages - 1) + [sums[True]]

    def _distinct(self, inputs: Inputs, shapes: _Shapes) -> tuple[list[Engine], _Ints]:
        if id(shapes) not in self._unlike:
            model = inputs.model
            mla = any(isinstance(layer.state, MLAttention) for layer in model.layers)
            self._unlike[id(shapes)] = shapes.distinct(by_length=mla or model.is_multimodal)
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


@contextmanager
def _not_collecting() -> Iterator[None]:
    """Tens of thousands of objects, all of which stay: looking for garbage among them takes a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _launched(shape: Engine, given: Mapping[str, Any]) -> Engine:
    """A shape's engine with the launch's own arguments, none of which changes the shape on a GPU."""
    return replace(
        shape,
        tensor_parallel_size=given.get("tensor_parallel_size", 1),
        pipeline_parallel_size=given.get("pipeline_parallel_size", 1),
        kv_cache_dtype=given.get("kv_cache_dtype", "auto"),
        quantization=given.get("quantization"),
        args=shape.args.with_(**{**given, **{n: shape.args.get(n) for n in _SHAPE}}),
    )


def _with_shape(engine: Engine, shape: Engine) -> Engine:
    return replace(
        engine,
        max_model_len=shape.max_model_len,
        max_num_seqs=shape.max_num_seqs,
        max_num_batched_tokens=shape.max_num_batched_tokens,
        cudagraph_capture_sizes=shape.cudagraph_capture_sizes,
        args=engine.args.with_(**{name: shape.args.get(name) for name in _SHAPE}),
    )


class _NoCache:
    """An encoder: the weights and the profile run must fit."""

    def __init__(self, available: list[_Ints]) -> None:
        room = np.minimum.reduce(available)
        self.reason = np.where(room > 0, 0, _REASONS.index("out_of_memory"))
        self.tightest: Any = np.zeros(len(room), dtype=np.int64)
        self.bytes_per_block: Any = 0
        self.blocks: Any = 0
        self.tokens: Any = 0
        self.concurrency: Any = 0.0
        self.kv_cache_dtype = "auto"

    def concurrency_at(self, _length: int, /) -> Any:
        """Requests that hold so many tokens at once; infinite where nothing is cached."""
        return np.inf


class _Nothing(_NoCache):
    """Attention-free, nothing recurrent either: one null block."""

    def __init__(self, available: list[_Ints]) -> None:
        super().__init__(available)
        self.reason = np.zeros(len(self.reason), dtype=np.int64)
        self.blocks = 1


class _Held(_NoCache):
    """What the KV cache holds: plan_kv_cache over arrays."""

    def __init__(
        self, layout: Layout, engine: Engine, available: list[_Ints], lengths: _Ints, shapes: _Shapes, rows: _Ints
    ) -> None:
        one = demand_of(engine, layout)
        batches = one.in_flight // engine.max_num_batched_tokens
        tokens: Any = shapes.max_num_batched_tokens[rows]
        length: Any = lengths
        demand = replace(one, max_model_len=length, in_flight=tokens * batches, encoder_tokens=tokens)
        room: Any = available
        per_block = np.array(layout.bytes_per_block)
        self.blocks = np.maximum(0, np.broadcast_to(layout.num_blocks(room), len(rows)))
        self.tokens, self.concurrency = layout.capacity(self.blocks, demand)
        counts = [r // p if p else np.full(len(rows), 1 << 62) for r, p in zip(room, per_block, strict=True)]
        narrowest = np.argmin(counts, axis=0)
        # budget.Estimate.tightest counts blocks a stage holds, plan_kv_cache what it could: they differ below zero.
        self.tightest = np.argmin(
            [np.maximum(0, r // p) if p else np.zeros(len(rows)) for r, p in zip(room, per_block, strict=True)], axis=0
        )
        self.bytes_per_block = per_block[narrowest]
        self.reason = self._failures(layout, room, demand, per_block)
        self._layout, self._demand = layout, demand

    def concurrency_at(self, length: int, /) -> Any:
        return self._layout.capacity(self.blocks, self._demand.with_len(length))[1]

    def _failures(self, layout: Layout, room: Any, demand: Any, per_block: _Ints) -> _Ints:
        """start_up_failure: of the first stage that is too small."""
        no_blocks, small = _REASONS.index("no_cache_blocks"), _REASONS.index("kv_too_small_for_one_request")
        if layout.rules.length_check == "tokens":
            short = demand.max_model_len > self.blocks * layout.block_size
            return np.where(self.blocks <= 0, no_blocks, np.where(short, small, 0))
        reason = np.zeros(len(self.blocks), dtype=np.int64)
        needed = layout.bytes_needed(demand)
        for stage, left in enumerate(layout.checked(room)):
            if not per_block[stage]:
                continue
            here = np.where(left <= 0, no_blocks, np.where(needed[stage] > left, small, 0))
            reason = np.where(reason == 0, here, reason)
        return reason


def _repeated(labels: list[str], size: int) -> Any:
    """A column of few texts."""
    known = list(dict.fromkeys(labels))
    return _categorical(np.repeat([known.index(label) for label in labels], size), known)


def _categorical(codes: Any, labels: list[str]) -> Any:
    import pandas as pd

    return pd.Categorical.from_codes(codes, categories=pd.Index(labels))
