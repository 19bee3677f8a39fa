"""Whether the hybrid KV cache manager runs: with it, windows are freed; without, they are stored like full attention.

Mirrors VllmConfig.__post_init__ (config/vllm.py, 0.33, and the same place in the versions named).
"""

from __future__ import annotations

from planner.engine.defaults import Engine
from planner.model.architecture import Model
from planner.model.attention import KVAttention

_CONNECTORS = frozenset(
    "NixlConnector NixlPullConnector NixlPushConnector MooncakeConnector MooncakeStoreConnector MoRIIOConnector "
    "OffloadingConnector SimpleCPUOffloadConnector DecodeBenchConnector ExampleHiddenStatesConnector "
    "UMBPStoreConnector HiSparseConnector".split()
)
"""KV connectors that work with it (SupportsHMA, 0.24 and later; before, any connector turned it off)."""


def uses_hybrid_manager(model: Model, engine: Engine) -> bool:
    """As vLLM resolves --disable-hybrid-kv-cache-manager."""
    if engine.disable_hybrid_kv_cache_manager:
        return False
    version = engine.vllm_version
    if (0, 10) <= version < (0, 14) and _has_chunks(model):
        return False
    if version < (0, 20) and engine.args.get("kv_events_config"):
        return False
    connector = engine.args.get("kv_transfer_config")
    return not connector or (version >= (0, 24) and _supports(connector))


def _has_chunks(model: Model) -> bool:
    """Llama 4's chunks: then off by default for latency (VLLM_ALLOW_CHUNKED_LOCAL_ATTN_WITH_HYBRID_KV_CACHE)."""
    return any(isinstance(state, KVAttention) and state.chunk_size is not None for state in model.states)


def _supports(connector: object) -> bool:
    if not isinstance(connector, dict):
        return False
    name = connector.get("kv_connector")
    if name != "MultiConnector":
        return name in _CONNECTORS
    extra = connector.get("kv_connector_extra_config")
    children = extra.get("connectors") if isinstance(extra, dict) else None
    return isinstance(children, list) and all(_supports(child) for child in children)
