"""KV cache: the blocks, tokens and concurrency that vLLM prints, from the bytes it has for them.

dtypes: --kv-cache-dtype. specs: one layer's page and blocks. groups: layers that share a block table. layout: all of
it for one engine. capacity: the arithmetic from bytes to tokens. plan: the answer. versions: what changed when.
"""

from planner.memory.kv_cache.plan import KVCachePlan, plan_kv_cache

__all__ = ["KVCachePlan", "plan_kv_cache"]
