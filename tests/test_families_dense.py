"""Dense decoders and encoders against vLLM's own classes, published parameter counts, and bad configs."""

from __future__ import annotations

from typing import Any

import pytest

import hf_configs
from planner.errors import InputError, Refusal
from planner.memory.weights import stage_weights
from planner.model.architecture import Model
from planner.model.attention import KVAttention
from planner.model.families import build_model
from planner.model.families.common import for_pooling
from planner.model.modules import LmHead, Placement
from planner.model.source import load_config
from tests.family_golden import built, computed, config_of, label, module_of, rows

MODULES = ("dense", "classic", "gemma", "transformers_backend", "encoder")


def mine(module: str) -> bool:
    return module in MODULES


ROWS = rows(mine)
REFUSED_ELSEWHERE = ("Total number of attention heads", "was supported in vLLM until", "KV sharing target")
"""What engine/rules.py refuses before any layer is looked at."""
HEAD_BIAS = {"phi"}
"""Models whose lm_head gets its bias from the checkpoint, which the golden file was made without."""


@pytest.mark.parametrize("row", [row for row in ROWS if "stages" in row], ids=label)
def test_bytes_are_vllms(row: dict[str, Any]) -> None:
    model = built(row["model"])
    expected = row["stages"]
    if row["model"] in HEAD_BIAS:
        bias = -(-model.vocab_size // 64) * 64 * 2 // row["args"].get("tensor_parallel_size", 1)
        expected = [*expected[:-1], [n + bias for n in expected[-1]]]
    assert computed(model, row) == expected


@pytest.mark.parametrize("row", [row for row in ROWS if "error" in row], ids=label)
def test_refused_where_vllm_fails(row: dict[str, Any]) -> None:
    if any(words in str(row["error"]) for words in REFUSED_ELSEWHERE):
        pytest.skip("refused by engine/rules.py")
    with pytest.raises(Refusal):
        computed(built(row["model"]), row)


# --- published parameter counts ------------------------------------------------------------------------------------


def twice(model: Model) -> int:
    """The checkpoint stores the tied head a second time."""
    return model.vocab_size * model.hidden_size


def frequencies(model: Model) -> int:
    """Old Llama checkpoints store rotary_emb.inv_freq in every layer: one number for two elements of a head."""
    state = model.layers[0].state
    assert isinstance(state, KVAttention)
    return len(model.layers) * state.head_size // 2


STORED = {
    "Qwen/Qwen1.5-0.5B-Chat": twice,
    "Qwen/Qwen3-0.6B": twice,
    "Qwen/Qwen3-1.7B": twice,
    "tiiuae/falcon-40b": twice,
    "meta-llama/Llama-2-7b-hf": frequencies,
    "meta-llama/Llama-2-7b-chat-hf": frequencies,
    "meta-llama/Llama-2-13b-hf": frequencies,
    "meta-llama/Llama-2-13b-chat-hf": frequencies,
}
"""What a checkpoint holds beyond the model, by cause."""


def counted(entry: hf_configs.IndexEntry) -> bool:
    """Whether the published number counts weights, not the words that a quantized checkpoint packs them into."""
    loaded = load_config(entry.model, offline=True)
    quantized = "quantization_config" in loaded.values or loaded.quant_config is not None
    packed = quantized or "NVFP4" in entry.model
    known = module_of(entry.model) in (*MODULES, "vision")
    return entry.params_published is not None and known and not packed


PUBLISHED = [entry for entry in hf_configs.index().values() if counted(entry)]


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.model)
def test_published_counts_are_exact_or_explained(entry: hf_configs.IndexEntry) -> None:
    if entry.model == "Qwen/Qwen3.5-4B":
        pytest.skip("reconstructed with a head tied at the top only, where vLLM does not look")
    model = built(entry.model)
    stored = STORED[entry.model](model) if entry.model in STORED else 0
    assert model.parameters + sum(model.extra_parameters.values()) + stored == entry.params_published


def test_most_published_counts_are_asked_about() -> None:
    assert len(PUBLISHED) >= 100


# --- KV cache state ------------------------------------------------------------------------------------------------


def states(model: Model) -> list[KVAttention | None]:
    found = []
    for layer in model.layers:
        assert layer.state is None or isinstance(layer.state, KVAttention)
        found.append(layer.state)
    return found


def spans(model: Model) -> list[int | None]:
    return [state.sliding_window if state else None for state in states(model)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama-swa", [1024] * 6),
        ("llama-lt", [1024, None] * 3),
        ("mistral-def", [4096] * 6),
        ("mistral-null", [None] * 6),
        ("qwen2", [None] * 6),
        ("qwen2-swa", [512] * 6),
        ("gemma2", [4096, None] * 3),
        ("gemma3", [4096, 4096, None] * 2),
        ("cohere2", [513, 513, 513, None, 513, 513]),  # vLLM counts the token itself
        ("olmo3", [512, 512, 512, None, 512, 512]),
        ("exaone4", [512, 512, 512, None, 512, 512]),
        ("phi3-longrope", [512] * 6),
    ],
)
def test_windows_are_where_vllm_puts_them(name: str, expected: list[int | None]) -> None:
    assert spans(built(name)) == expected


def test_a_window_of_zero_means_none() -> None:
    assert spans(built("llama-swa", sliding_window=0)) == [None] * 6


def test_layers_that_reuse_a_cache_keep_none() -> None:
    assert [state is None for state in states(built("gemma3n"))] == [False] * 8 + [True] * 2
    assert [state is None for state in states(built("gemma4-ple"))] == [False] * 4 + [True] * 2


def test_heads_of_gemma_4_differ_by_kind_of_layer() -> None:
    sliding, full, *_ = states(built("gemma4-ple"))
    assert sliding is not None
    assert full is not None
    assert (sliding.head_size, full.head_size) == (64, 128)
    assert (sliding.sliding_window, full.sliding_window) == (512, None)


def test_encoders_keep_no_cache() -> None:
    for name in ("BAAI/bge-large-en-v1.5", "modernbert", "gemma3emb"):
        assert all(state is None for state in states(built(name)))


def test_granite_with_layer_types_has_sinks() -> None:
    model = built("granite-bias", layer_types=["sliding_attention", "full_attention"] * 3, sliding_window=128)
    assert [state.sinks for state in states(model) if state] == [True] * 6
    assert sum(module.name == "self_attn.sinks" for module in model.layers[0].modules) == 1


# --- the rest ------------------------------------------------------------------------------------------------------


def test_pooling_drops_the_head() -> None:
    model = built("intfloat/e5-mistral-7b-instruct")
    pooling = for_pooling(model)
    assert pooling.is_pooling
    assert not any(isinstance(module, LmHead) for module in pooling.last)
    assert model.parameters - pooling.parameters == 32000 * 4096


def test_a_dual_chunk_config_has_five_rotary_caches() -> None:
    chunks = {"chunk_size": 1024, "local_size": 128, "original_max_position_embeddings": 2048}
    model = built("qwen2", dual_chunk_attention_config=chunks)
    assert sum(t.nbytes for m in model.everywhere for t in m.tensors(Placement())) == (4 * 896 + 4096) * 64 * 2


def test_old_falcon_configs_have_one_kv_head() -> None:
    assert [state.kv_heads for state in states(built("falcon7")) if state] == [1] * 4


def test_longrope_starts_at_the_original_length() -> None:
    model = built("phi3-longrope")
    assert (model.max_position, model.default_max_model_len) == (4096, 1024)


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("llama-bias", {"num_attention_heads": 7, "num_key_value_heads": 7}, "num_attention_heads"),
        ("llama-bias", {"num_key_value_heads": 3}, "num_key_value_heads"),
        ("llama-bias", {"num_key_value_heads": 0}, "num_key_value_heads"),
        ("llama-bias", {"hidden_size": 0}, "hidden_size must be at least 1"),
        ("llama-bias", {"hidden_size": "512"}, "hidden_size must be a whole number"),
        ("llama-bias", {"intermediate_size": None, "model_type": "other"}, "intermediate_size"),
        ("llama-bias", {"vocab_size": -1}, "vocab_size"),
        ("llama-bias", {"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ("llama-lt", {"layer_types": ["sliding_attention"]}, "layer_types lists 1 layers"),
        ("llama-bias", {"partial_rotary_factor": 1.5}, "partial_rotary_factor"),
        ("llama-bias", {"torch_dtype": "int4"}, "unknown dtype"),
        ("gemma3n", {"num_kv_shared_layers": 10}, "num_kv_shared_layers"),
        ("gemma3n", {"intermediate_size": [1408]}, "intermediate_size lists 1 layers"),
        ("gemma4-ple", {"attention_k_eq_v": True, "num_global_key_value_heads": 3}, "num_global_key_value_heads"),
        ("zai-org/glm-4-9b-chat", {"num_attention_heads": 33}, "hidden_size"),
        ("minicpm", {"num_experts": 8}, "num_experts"),
    ],
)
def test_a_contradictory_config_names_its_key(model: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        built(model, **changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_every_dense_config_of_the_catalogue_is_built() -> None:
    for name in hf_configs.names():
        if mine(module_of(name)):
            model = build_model(load_config(name, offline=True).config, name)
            assert model.layers
            assert model.architecture == config_of(name)["architectures"][0]


def test_a_kv_head_count_that_cannot_be_replicated_is_refused() -> None:
    model = built("microsoft/phi-4")  # 10 KV heads
    with pytest.raises(Refusal, match="KV heads"):
        stage_weights(model, Placement(tp_size=4), 1, max_split=None)
