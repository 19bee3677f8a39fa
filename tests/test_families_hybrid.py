"""Hybrid families: what their layers keep between steps, patterns, and configs that contradict themselves.

Their weights are compared with vLLM's in test_families_moe.py, together with all others of families.jsonl.gz.
"""

from __future__ import annotations

from typing import Any

import pytest

from planner.errors import InputError, Refusal
from planner.memory.weights import stage_weights
from planner.model.attention import KVAttention, MLAttention, RecurrentState
from planner.model.config import Config
from planner.model.families import build_model
from planner.model.modules import Placement
from planner.model.source import load_config
from planner.units import DTYPE_BYTES
from tests.test_families_moe import built

BF16, FP32 = "bfloat16", "float32"

# What vLLM 0.33 answers for each Mamba layer at tensor parallel size 2 (MambaSpec.shapes and .dtypes).
SPECS: list[tuple[str, str, list[tuple[tuple[int, ...], str]]]] = [
    ("ai21labs/Jamba-v0.1", "mamba1", [((3, 4096), BF16), ((4096, 16), BF16)]),
    ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "mamba2", [((3, 6144), BF16), ((64, 80, 128), FP32)]),
    ("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16", "mamba2", [((3, 3072), BF16), ((32, 64, 128), FP32)]),
    ("ibm-granite/granite-4.0-h-tiny", "mamba2", [((3, 1792), BF16), ((24, 64, 128), BF16)]),
    ("Qwen/Qwen3-Next-80B-A3B-Instruct", "gdn_attention", [((3, 4096), BF16), ((16, 128, 128), BF16)]),
    ("Qwen/Qwen3.5-9B", "gdn_attention", [((3, 4096), BF16), ((16, 128, 128), FP32)]),
    ("state-spaces/mamba-2.8b-hf", "mamba1", [((3, 2560), BF16), ((2560, 16), BF16)]),
    ("tiiuae/falcon-mamba-7b", "mamba1", [((3, 4096), BF16), ((4096, 16), BF16)]),
    ("moonshotai/Kimi-Linear-48B-A3B-Instruct", "kda", [((3, 6144), BF16), ((16, 128, 128), FP32)]),
    ("falcon-h1", "mamba2", [((3, 1024), BF16), ((12, 64, 128), BF16)]),
    ("lfm2", "short_conv", [((2, 512), BF16)]),
]


def recurrent(model: str) -> RecurrentState:
    layers = built(model).layers
    return next(state for layer in layers for state in layer.states if isinstance(state, RecurrentState))


def size(parts: list[tuple[tuple[int, ...], str]]) -> int:
    total = 0
    for shape, dtype in parts:
        n = DTYPE_BYTES[dtype]
        for side in shape:
            n *= side
        total += n
    return total


@pytest.mark.parametrize(("model", "kind", "parts"), SPECS, ids=[spec[0] for spec in SPECS])
def test_state_is_vllms(model: str, kind: str, parts: list[tuple[tuple[int, ...], str]]) -> None:
    state = recurrent(model)
    assert state.type == kind
    assert len(state.states) == len(parts)
    assert state.nbytes(2, model_dtype=BF16) == size(parts)


def test_flags_set_the_dtypes_of_a_state() -> None:
    state = recurrent("ibm-granite/granite-4.0-h-tiny")
    conv, ssm = 3 * 1792, 24 * 64 * 128
    assert state.nbytes(2, model_dtype=BF16, cache_dtype=FP32) == 4 * (conv + ssm)
    assert state.nbytes(2, model_dtype=BF16, ssm_cache_dtype=FP32) == 2 * conv + 4 * ssm
    nemotron = recurrent("nvidia/NVIDIA-Nemotron-Nano-9B-v2")
    assert nemotron.nbytes(2, model_dtype=BF16, ssm_cache_dtype="float16") == 2 * (3 * 6144 + 64 * 80 * 128)


def test_speculative_tokens_lengthen_the_conv_state_but_not_of_mamba_1() -> None:
    plain, longer = ({"model_dtype": BF16, "speculative_tokens": n} for n in (0, 2))
    granite = recurrent("ibm-granite/granite-4.0-h-tiny")
    assert granite.nbytes(2, **longer) - granite.nbytes(2, **plain) == 2 * 2 * 1792  # type: ignore[arg-type]
    jamba = recurrent("ai21labs/Jamba-v0.1")
    assert jamba.nbytes(2, **longer) == jamba.nbytes(2, **plain)  # type: ignore[arg-type]


def test_layers_keep_what_their_kind_keeps() -> None:
    pattern = "".join(
        {RecurrentState: "M", KVAttention: "*", type(None): "-"}[type(layer.state)]
        for layer in built("nvidia/NVIDIA-Nemotron-Nano-9B-v2").layers
    )
    assert pattern == load_config("nvidia/NVIDIA-Nemotron-Nano-9B-v2").values["hybrid_override_pattern"]
    kimi = built("moonshotai/Kimi-Linear-48B-A3B-Instruct").layers
    assert [index + 1 for index, layer in enumerate(kimi) if isinstance(layer.state, MLAttention)] == [
        4, 8, 12, 16, 20, 24, 27,
    ]  # fmt: skip
    both = built("falcon-h1").layers[0]
    assert [type(state) for state in both.states] == [KVAttention, RecurrentState]


def test_groups_that_do_not_divide_are_refused_with_vllms_words() -> None:
    model = built("falcon-h1-tied")  # two groups
    with pytest.raises(Refusal, match="If tensor parallel world size does not divide num_groups"):
        stage_weights(model, Placement(tp_size=4), 1, max_split=None)


def test_a_router_that_must_compute_in_fp32_is_stored_so_where_no_kernel_does() -> None:
    model = built("nvidia/NVIDIA-Nemotron-3-Nano-30B-A3B-BF16")
    gate = next(m for layer in model.layers for m in layer.modules if m.name == "mixer.gate")

    def stored(capability: int | None) -> int:
        return sum(tensor.nbytes for tensor in gate.tensors(Placement(capability=capability)))

    assert stored(90) == stored(100) == 128 * 2688 * 2
    assert stored(80) == stored(89) == stored(120) == stored(None) == 128 * 2688 * 4


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("ai21labs/Jamba-v0.1", {"attn_layer_offset": 8}, "attn_layer_offset = 8 must be below attn_layer_period = 8"),
        ("ai21labs/Jamba-v0.1", {"num_experts_per_tok": 17}, "num_experts_per_tok = 17 exceeds num_experts = 16"),
        ("nemotron-h-biases", {"num_hidden_layers": 6}, "hybrid_override_pattern has 7 layers"),
        ("nemotron-h-biases", {"hybrid_override_pattern": "M-X*-M-"}, "may only have the letters"),
        ("nemotron-h-biases", {"intermediate_size": [1, 2]}, "intermediate_size lists 2 widths for 3 MLP layers"),
        ("nvidia/NVIDIA-Nemotron-3-Ultra-550B-A55B-BF16", {"layers_block_type": ["mamba", "rwkv"]}, "'rwkv'"),
        ("ibm-granite/granite-4.0-h-tiny", {"layer_types": ["mamba"]}, "layer_types lists 1 layers"),
        ("ibm-granite/granite-4.0-h-tiny", {"layer_types": ["mamba", "conv"] * 20}, "unknown layer type 'conv'"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"layer_types": ["sliding"] * 48}, "unknown layer type 'sliding'"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", {"num_hidden_layers": 81}, "block_configs lists 80 layers"),
        ("nvidia/Llama-3_3-Nemotron-Super-49B-v1_5", {"block_configs": 3}, "block_configs must be a list of objects"),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", {"num_experts": 5}, "num_experts_per_tok = 10 exceeds num_experts = 5"),
    ],
)
def test_a_contradictory_config_names_its_key(model: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        built(model, **changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_nemotron_widths_may_be_listed_by_layer() -> None:
    widths = [1024, 2048, 512]
    model = built("nemotron-h-biases", intermediate_size=widths)
    plain = [layer for layer in model.layers if layer.state is None]
    assert [layer.modules[0].outputs for layer in plain] == [(width,) for width in widths]  # type: ignore[attr-defined]


def test_a_config_without_its_defaults_is_read_with_them() -> None:
    values = dict(load_config("state-spaces/mamba-2.8b-hf").values)
    for key in ("use_bias", "use_conv_bias", "conv_kernel", "state_size"):
        values.pop(key)
    assert build_model(Config(values), "x").parameters == built("state-spaces/mamba-2.8b-hf").parameters
