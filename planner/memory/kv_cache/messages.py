"""The sentences of a start that fails for lack of KV cache, as each vLLM version words them.

Mirrors _check_enough_kv_cache_memory (v1/core/kv_cache_planning.py, 0.33; kv_cache_utils.py before) and, for 0.6,
worker/worker.py raise_if_cache_size_invalid. Grammar and the parenthesis that never closes are vLLM's.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.errors import Reason
from planner.units import GIB, gib

_SEE = " See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
_NO_BLOCKS = (
    "No available memory for the cache blocks. Try increasing `gpu_memory_utilization` when initializing the engine."
)
_ASK = (
    "To serve at least one request with the {model} max seq len ({length}), ({needed} GiB KV cache is needed, "
    "which is larger than the available KV cache memory ({available} GiB)."
)
_TRY = "Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
_ESTIMATE = "Based on the available memory, the estimated maximum model length is {estimate}."


@dataclass(frozen=True, kw_only=True)
class Wording:
    """One version's sentences."""

    no_blocks: str
    too_small: str
    estimate: str = _ESTIMATE
    """Put into `too_small` where some length would fit."""
    two_decimals: bool = False
    """Sizes as "40.00" instead of "40.0"."""


WORDINGS = {
    "0.6": Wording(
        no_blocks=_NO_BLOCKS,
        too_small="The model's max seq len ({length}) is larger than the maximum number of tokens that can be stored "
        "in KV cache ({tokens}). Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when "
        "initializing the engine.",
    ),
    # The second half of 0.8's estimate is a string of its own that nothing uses.
    "0.8": Wording(
        no_blocks=_NO_BLOCKS,
        too_small=f"{_ASK}{{estimated}}  {_TRY}",
        estimate=" Based on the available memory,",
        two_decimals=True,
    ),
    "0.9": Wording(no_blocks=_NO_BLOCKS, too_small=f"{_ASK} {{estimated}} {_TRY}", two_decimals=True),
    "0.14": Wording(
        no_blocks=_NO_BLOCKS + _SEE, too_small=f"{_ASK} {{estimated}}{_TRY}{_SEE}", estimate=f"{_ESTIMATE} "
    ),
    "0.24": Wording(
        no_blocks=_NO_BLOCKS.removesuffix(".")
        + f" (this flag also controls CPU memory reservation on the CPU backend, despite its name).{_SEE}",
        too_small=f"{_ASK} {{estimated}}Try increasing `gpu_memory_utilization` (which also controls CPU memory on "
        f"the CPU backend) or decreasing `max_model_len` when initializing the engine.{_SEE}",
        estimate=f"{_ESTIMATE} ",
    ),
}

_AUTO_FIT = (
    "Cannot auto-fit max_model_len: not enough GPU memory available to serve even a single token. "
    "Try increasing `gpu_memory_utilization`."
)


def no_cache_blocks(wording: str) -> Reason:
    """Nothing is left for the cache."""
    return Reason(code="no_cache_blocks", message=WORDINGS[wording].no_blocks, flag="--gpu-memory-utilization")


def kv_too_small(wording: str, *, length: int, needed: int, available: int, estimate: int, tokens: int) -> Reason:
    """One request of full length does not fit. available: as the version compares it; estimate: 0 for none."""
    words = WORDINGS[wording]
    size = (lambda n: f"{n / GIB:.2f}") if words.two_decimals else gib
    message = words.too_small.format(
        model="models's" if wording in ("0.8", "0.9", "0.14") else "model's",
        length=length,
        needed=size(needed),
        available=size(available),
        estimated=words.estimate.format(estimate=estimate) if estimate > 0 else "",
        tokens=tokens,
    )
    return Reason(code="kv_too_small_for_one_request", message=message, flag="--max-model-len")


def cannot_auto_fit() -> Reason:
    """vLLM's refusal of `--max-model-len auto` where not even one token fits (v1/core/kv_cache_utils.py)."""
    return Reason(code="cannot_auto_fit", message=_AUTO_FIT, flag="--gpu-memory-utilization")
