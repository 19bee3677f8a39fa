"""vLLM's own KV cache planning, called as its engine core calls it, for a list of amounts of memory."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from vllm.config import VllmConfig, set_current_vllm_config

Specs = dict[str, Any]  # KV cache spec by layer name, of one worker
Groups = list[Any]  # vLLM's KVCacheGroupSpec


@dataclasses.dataclass(frozen=True)
class _Planning:
    """The planning functions of this vLLM version behind one signature each."""

    groups: Callable[[VllmConfig, list[Specs]], Groups]
    bytes_per_block: Callable[[VllmConfig, Groups], int]
    bytes_needed: Callable[[VllmConfig, Groups], int]
    longest: Callable[[VllmConfig, Groups, int], int]
    project: Callable[[Groups, Specs], Groups]
    configs: Callable[[VllmConfig, list[Specs], list[int], Groups], list[Any]]


def _planning() -> _Planning:
    try:
        from vllm.v1.core import kv_cache_planning as kp  # 0.33 and later
        from vllm.v1.core.kv_cache_config_builder import get_kv_cache_config_builder as builder
    except ImportError:
        return _planning_before_033()
    return _Planning(
        groups=kp.get_global_kv_cache_groups,
        bytes_per_block=lambda cfg, g: kp._pool_bytes_per_block_from_builder(builder(cfg), cfg, g),
        bytes_needed=lambda cfg, g: kp._max_memory_usage_bytes_from_groups(builder(cfg), cfg, g),
        longest=lambda cfg, g, memory: kp._estimate_max_model_len_from_groups(builder(cfg), cfg, g, memory),
        project=kp._project_kv_cache_groups_to_worker,
        configs=lambda cfg, specs, memory, g: kp.get_kv_cache_configs(cfg, specs, memory, copy.deepcopy(g)),
    )


def _planning_before_033() -> _Planning:
    from vllm.v1.core import kv_cache_utils as ku

    def groups(cfg: VllmConfig, specs: list[Specs]) -> Groups:
        merged = {name: spec for worker in specs for name, spec in worker.items()}
        return list(ku.get_kv_cache_groups(cfg, merged))

    return _Planning(
        groups=groups,
        bytes_per_block=ku._pool_bytes_per_block,
        bytes_needed=ku._max_memory_usage_bytes_from_groups,
        longest=ku._estimate_max_model_len_from_groups,
        project=ku._project_kv_cache_groups_to_worker,
        configs=lambda cfg, specs, memory, _groups: ku.get_kv_cache_configs(cfg, copy.deepcopy(specs), memory),
    )


def stage_specs(config: VllmConfig) -> tuple[dict[str, Any], list[str], list[str]]:
    """(KV cache spec by layer, supported layouts, attention backends) of the stage just built with this config."""
    from vllm.distributed.kv_transfer.kv_connector.utils import get_current_attn_backends
    from vllm.model_executor.layers.attention_layer_base import AttentionLayerBase
    from vllm.platforms import current_platform
    from vllm.v1.attention.backends.utils import get_supported_kv_cache_layouts
    from vllm.v1.worker.gpu.attn_utils import get_kv_cache_spec

    layers = config.compilation_config.static_forward_context.values()
    backends = {layer.get_attn_backend().get_name() for layer in layers if isinstance(layer, AttentionLayerBase)}
    with set_current_vllm_config(config, check_compile=False):
        current_platform.update_block_size_for_backend(config)
        specs = get_kv_cache_spec(config)
        layouts = [layout.name for layout in get_supported_kv_cache_layouts(get_current_attn_backends(config))]
    return specs, layouts, sorted(backends)


def plan(
    config: VllmConfig, specs: list[dict[str, Any]], layouts: list[list[str]], amounts: Sequence[Any]
) -> dict[str, Any]:
    """What engine start-up makes of each amount: bytes per GPU, or a list of bytes by pipeline stage.

    specs and layouts are by pipeline stage. Every tensor parallel rank of a stage has the same, and vLLM takes the
    minimum over ranks, so one rank of each stage stands for all.
    """
    from vllm.v1.attention.backends.utils import resolve_kv_cache_layout
    from vllm.v1.engine.core import register_all_kvcache_specs

    planning = _planning()
    workers = [dict(stage) for stage in specs]
    model, scheduler, cache = config.model_config, config.scheduler_config, config.cache_config
    with set_current_vllm_config(config, check_compile=False):
        register_all_kvcache_specs(config)
        every_spec = [spec for worker in workers for spec in worker.values()]
        if any(getattr(spec, "non_causal", False) for spec in every_spec):  # as EngineCore does
            scheduler.enable_chunked_prefill = False
            cache.enable_prefix_caching = False
        layout = resolve_kv_cache_layout(config, layouts, every_spec)
        groups = planning.groups(config, copy.deepcopy(workers))
        if hasattr(config, "adjust_dcp_kv_cache_interleave_size"):
            config.adjust_dcp_kv_cache_interleave_size(groups)
        own = [planning.project(groups, worker) for worker in workers]
        per_block = [planning.bytes_per_block(config, g) if g else 0 for g in own]
        needed = [planning.bytes_needed(config, g) if g else 0 for g in own]
        result: dict[str, Any] = {
            "layout": layout.name,
            "specs": _distinct({name: spec for stage in specs for name, spec in stage.items()}),
            "groups": [
                {
                    "kind": type(group.kv_cache_spec).__name__,
                    "layers": len(group.layer_names),
                    "block_size": group.kv_cache_spec.block_size,
                    "page_size_bytes": group.kv_cache_spec.page_size_bytes,
                    "blocks_per_request": -(
                        -group.kv_cache_spec.max_memory_usage_bytes(config) // group.kv_cache_spec.page_size_bytes
                    ),
                }
                for group in groups
            ],
            "bytes_per_block": per_block,
            "bytes_needed": needed,
            "min_available_bytes": max((n + b for n, b in zip(needed, per_block, strict=True)), default=0),
            "outcomes": [],
        }
        for amount in amounts:
            memory = [int(m) for m in (amount if isinstance(amount, (list, tuple)) else [amount] * len(workers))]
            before = model.max_model_len
            outcome: dict[str, Any] = {"available_bytes": amount}
            try:
                outcome.update(_start(planning, config, workers, memory, groups))
                if model.max_model_len != before:
                    outcome["max_model_len_after"] = model.max_model_len
            except ValueError as error:
                outcome["error"] = str(error)
            finally:
                model.max_model_len = before
            lengths = [planning.longest(config, g, m - b) for g, m, b in zip(own, memory, per_block, strict=True) if g]
            outcome["max_len_that_fits"] = min(lengths) if lengths else None
            result["outcomes"].append(outcome)
    return result


def _start(
    planning: _Planning, config: VllmConfig, workers: list[Specs], memory: list[int], groups: Groups
) -> dict[str, Any]:
    from vllm.v1.core import kv_cache_utils as ku

    if not any(workers):
        return {"num_blocks": 1, "attention_free": True}
    configs = planning.configs(config, workers, memory, groups)
    scheduler_view = ku.generate_scheduler_kv_cache_config(configs)
    tokens, concurrency = ku.get_kv_cache_capacity(config, scheduler_view)
    return {"num_blocks": scheduler_view.num_blocks, "tokens": tokens, "concurrency": f"{concurrency:.2f}"}


def _distinct(specs: dict[str, Any]) -> list[dict[str, Any]]:
    """Equal specs of several layers as one entry with a count."""
    found: dict[str, dict[str, Any]] = {}
    for name, spec in specs.items():
        facts = _facts(spec)
        entry = found.setdefault(json.dumps(facts, sort_keys=True), {"count": 0, "example": name, **facts})
        entry["count"] += 1
    return list(found.values())


def _facts(spec: Any) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, torch.dtype):
            return str(value).removeprefix("torch.")
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        if isinstance(value, (int, float, str, bool)):
            return value
        return getattr(value, "name", None) or str(value)

    facts: dict[str, Any] = {"kind": type(spec).__name__, "page_size_bytes": spec.page_size_bytes}
    for field in dataclasses.fields(spec):
        value = getattr(spec, field.name)
        if field.name != "kv_cache_specs" and value is not None and value is not False:
            facts[field.name] = plain(value)
    return facts
