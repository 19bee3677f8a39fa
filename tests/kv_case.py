"""Small pieces shared by the KV cache tests: a plan for a catalogue model, and models made of nothing but caches."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

from planner.engine.args import EngineArgs
from planner.engine.defaults import Engine, resolve
from planner.engine.version import parse_version
from planner.hardware.catalogue import Gpu, find_gpu
from planner.memory.kv_cache import KVCachePlan, plan_kv_cache
from planner.memory.kv_cache.capacity import Layout
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from planner.memory.kv_cache.layout import make_layout
from planner.memory.kv_cache.plan import cache_model, demand_of
from planner.memory.kv_cache.specs import Demand
from planner.model.architecture import Layer, Model
from planner.model.attention import KVAttention, LayerState
from planner.model.families import build_model
from planner.model.source import load_config
from planner.units import GIB

LLAMA_8B = "meta-llama/Llama-3.1-8B-Instruct"
NEWEST = "0.33.0"


@cache
def model(name: str) -> Model:
    return build_model(load_config(name, offline=True).config, name)


@cache
def own_kv_dtype(name: str, version: str = NEWEST) -> str | None:
    """What the checkpoint itself asks for."""
    loaded = load_config(name, offline=True)
    return checkpoint_kv_dtype(
        loaded.values.get("quantization_config") or loaded.quant_config or {}, parse_version(version)
    )


@cache
def card(name: str = "H100") -> Gpu:
    return find_gpu(name)


CPU = replace(find_gpu("H100"), name="CPU", vendor="cpu", compute_capability=None, memory_bytes=None)


def engine(what: str | Model, gpu: Gpu, version: str = NEWEST, **args: Any) -> Engine:
    built = model(what) if isinstance(what, str) else what
    return resolve(built, gpu, EngineArgs(args), parse_version(version), "server")


def plan(
    what: str | Model, gib: float = 40, *, gpu: Gpu | None = None, version: str = NEWEST, **args: Any
) -> KVCachePlan:
    gpu = card() if gpu is None else gpu
    built = model(what) if isinstance(what, str) else what
    resolved = engine(built, gpu, version, **args)
    own = own_kv_dtype(what, version) if isinstance(what, str) else None
    room = [int(gib * GIB)] * resolved.pipeline_parallel_size
    return plan_kv_cache(built, resolved, gpu, room, checkpoint_kv_dtype=own)


def layout(what: str | Model, *, version: str = NEWEST, **args: Any) -> tuple[Layout, Demand]:
    built = model(what) if isinstance(what, str) else what
    resolved = engine(built, card(), version, **args)
    made = make_layout(cache_model(built, resolved, card()))
    return made, demand_of(resolved, made)


def of_states(*states: LayerState, max_position: int = 8192, heads: int = 8) -> Model:
    """A model that keeps these, one a layer, and has no weights."""
    return Model(
        name="made-up",
        architecture="LlamaForCausalLM",
        hidden_size=64,
        vocab_size=64,
        num_attention_heads=heads,
        dtype="bfloat16",
        max_position=max_position,
        layers=tuple(Layer(modules=(), state=state) for state in states),
    )


def full(kv_heads: int = 4, head_size: int = 64) -> KVAttention:
    return KVAttention(heads=8, kv_heads=kv_heads, head_size=head_size)


def window(size: int, kv_heads: int = 4, head_size: int = 64) -> KVAttention:
    return KVAttention(heads=8, kv_heads=kv_heads, head_size=head_size, sliding_window=size)
