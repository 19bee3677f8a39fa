"""Which of vLLM's two model runners serves a model: config/vllm.py use_v2_model_runner of the wheels 0.22 to 0.33."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.engine.version import VllmVersion
from planner.model.architecture import Model


@dataclass(frozen=True, kw_only=True)
class _Default:
    """Models that the second runner serves by default from a version on."""

    since: tuple[int, int]
    architectures: frozenset[str]
    dense: bool = False
    """Every model without experts, unless it is a hybrid."""
    quantized: bool = True


_MOE = frozenset(("DeepseekV2ForCausalLM", "Qwen2MoeForCausalLM", "GraniteMoeForCausalLM"))
_DENSE = frozenset(("LlamaForCausalLM", "MistralForCausalLM", "Qwen3ForCausalLM"))
_DEFAULTS = (
    _Default(since=(0, 22), architectures=frozenset(("Qwen3ForCausalLM",)), quantized=False),
    _Default(since=(0, 23), architectures=_DENSE, quantized=False),
    _Default(since=(0, 24), architectures=_DENSE | _MOE),
    _Default(since=(0, 25), architectures=_MOE, dense=True),
    _Default(since=(0, 28), architectures=_MOE | {"DeepseekV4ForCausalLM"}, dense=True),
)
_EVERY_MODEL_SINCE = (0, 29)

_EAGLE = frozenset(("eagle", "eagle3", "mtp"))
_NOT_ITS_DRAFTS: tuple[tuple[tuple[int, int], frozenset[str]], ...] = (
    ((0, 30), frozenset(("ngram", "ngram_gpu", "draft_model", "suffix", "medusa", "mlp_speculator", "custom_class"))),
    ((0, 31), frozenset(("ngram", "ngram_gpu", "suffix", "medusa", "mlp_speculator", "custom_class"))),
    ((0, 32), frozenset(("suffix", "medusa", "mlp_speculator", "custom_class"))),
    ((0, 33), frozenset(("suffix", "custom_class"))),
)
"""Methods of speculative decoding that send a launch back to the first runner. Before 0.30: all but those below."""
_ITS_DRAFTS: tuple[tuple[tuple[int, int], frozenset[str]], ...] = (
    ((0, 22), _EAGLE),
    ((0, 24), _EAGLE | {"dflash"}),
    ((0, 25), _EAGLE | {"dflash", "dspark"}),
)


def uses_v2_runner(model: Model, version: VllmVersion, given: Mapping[str, Any], *, quantized: bool) -> bool:
    """Whether vLLM takes the second model runner when VLLM_USE_V2_MODEL_RUNNER is not set."""
    if model.is_pooling or version < _DEFAULTS[0].since or not _drafts(given, version):
        return False
    if version >= _EVERY_MODEL_SINCE:
        return True
    rule = [each for each in _DEFAULTS if version >= each.since][-1]
    if quantized and not rule.quantized:
        return False
    return model.architecture in rule.architectures or (rule.dense and not model.is_moe and not model.is_hybrid)


def _drafts(given: Mapping[str, Any], version: VllmVersion) -> bool:
    """Whether the second runner has this method of speculative decoding, if any is asked for."""
    speculative = given.get("speculative_config")
    method = speculative.get("method") if isinstance(speculative, dict) else None
    if method is None:
        return True
    if version >= _NOT_ITS_DRAFTS[0][0]:
        return method not in [methods for since, methods in _NOT_ITS_DRAFTS if version >= since][-1]
    staged = method == "eagle3" and given.get("pipeline_parallel_size", 1) > 1
    return method in [methods for since, methods in _ITS_DRAFTS if version >= since][-1] and not staged
