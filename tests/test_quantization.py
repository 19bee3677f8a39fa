"""How quantized layers are stored: against vLLM's own classes, refused in vLLM's words, and cheap to resolve."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from planner.errors import InputError, Refusal
from planner.memory.quantization import (
    Ignored,
    Quantization,
    known_methods,
    quantization,
)
from planner.memory.quantization.kernels import PackedShape, marlin_padded, packed_kernel
from planner.memory.quantization.names import NameList, shard_names, skipped
from planner.memory.quantization.recipes import RECIPES, what_if
from planner.memory.quantization.schemes import Fp8, Packed
from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import build_model
from planner.model.modules import Experts, Linear, LmHead, Module, Placement
from planner.model.source import load_config
from tests.golden.quantization_cases import BASES, CHECKPOINTS, config_of

GOLDEN = Path(__file__).parent / "golden"
CAPABILITY = {"a100": 80, "l40s": 89, "h100": 90, "h200": 90, "b200": 100}
QKV = ("q_proj", "k_proj", "v_proj")


@cache
def base_model(base: str) -> Model:
    return build_model(Config(config_of(load_config(BASES[base]).values, "none"), where="config.json"), base)


def quantized(checkpoint: str, base: str) -> Quantization | None:
    model = base_model(base)
    if checkpoint.startswith("o:"):
        return quantization(None, model, "config.json", checkpoint[2:])
    parameters = CHECKPOINTS[checkpoint]
    return quantization(parameters, model, "config.json") if parameters else None


def modules_of(model: Model, at: Placement) -> Iterator[tuple[Module, Placement]]:
    for module in (*model.towers, *model.first, *model.last, *model.everywhere):
        yield module, at
    for index, layer in enumerate(model.layers):
        for module in layer.modules:
            yield module, replace(at, prefix=f"{model.layer_prefix}{index}.")


def total(model: Model, at: Placement) -> int:
    return sum(t.nbytes for module, where in modules_of(model, at) for t in module.tensors(where))


def golden_rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN / "quantization.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


def by_base_and_gpu() -> dict[tuple[str, str], list[dict[str, Any]]]:
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in golden_rows():
        base, _, gpu, *_ = row["id"].split("|")
        groups.setdefault((base, gpu), []).append(row)
    return groups


GROUPS = by_base_and_gpu()


# --- against vLLM's own classes --------------------------------------------------------------------------------------


def meets(total_of_vllm: int, ours: int | str, base: str, ep: list[str]) -> bool:
    """A GPU holds each layer's expert map; rows made with 0.33 lack it, which moves it to the CPU beside meta."""
    layers = base_model(base).layers
    maps = [4 * module.count for layer in layers for module in layer.modules if isinstance(module, Experts)]
    return ours == total_of_vllm or (bool(ep) and ours == total_of_vllm + sum(maps))


@pytest.mark.parametrize(("base", "gpu"), sorted(GROUPS))
def test_bytes_are_vllms_own(base: str, gpu: str) -> None:
    wrong = []
    for row in GROUPS[base, gpu]:
        _, checkpoint, _, tp, *ep = row["id"].split("|")
        try:
            at = Placement(
                tp_size=int(tp),
                expert_parallel_size=int(tp) if ep else 1,
                capability=CAPABILITY[gpu],
                quantization=quantized(checkpoint, base),
            )
            ours: int | str = total(base_model(base), at)
        except (Refusal, InputError) as refused:
            ours = f"refused: {refused}"
        if ("error" in row) != isinstance(ours, str) or ("total" in row and not meets(row["total"], ours, base, ep)):
            wrong.append((row, ours))
    assert not wrong, f"{len(wrong)} of {len(GROUPS[base, gpu])}: {wrong[:3]}"


# --- bad input -------------------------------------------------------------------------------------------------------

AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True}
GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True}
FP8 = {"quant_method": "fp8", "activation_scheme": "dynamic"}
WEIGHTS = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
GROUP = {"targets": ["Linear"], "weights": WEIGHTS}
CT = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": GROUP}}

BAD = [
    ({"quant_method": "wizardry"}, "quantization_config.quant_method = 'wizardry'"),
    ({"quant_method": 4}, "quant_method = 4"),
    ({**AWQ, "bits": 5}, "quantization_config.bits = 5"),
    ({**AWQ, "group_size": None}, "quantization_config.group_size is missing"),
    ({**AWQ, "group_size": 0}, "quantization_config.group_size = 0"),
    ({**AWQ, "zero_point": "yes"}, "quantization_config.zero_point = 'yes'"),
    ({**AWQ, "modules_to_not_convert": "lm_head"}, "quantization_config.modules_to_not_convert = 'lm_head'"),
    ({**GPTQ, "bits": 5}, "quantization_config.bits = 5"),
    ({**GPTQ, "bits": True}, "quantization_config.bits = True"),
    ({k: v for k, v in GPTQ.items() if k != "sym"}, "quantization_config.sym is missing"),
    ({**GPTQ, "dynamic": {"+:(": {}}}, "quantization_config.dynamic: '(' is not a regular expression"),
    ({**GPTQ, "dynamic": [1]}, "quantization_config.dynamic = [1]"),
    ({"quant_method": "fp8"}, "quantization_config.activation_scheme is missing"),
    ({**FP8, "activation_scheme": "sometimes"}, "quantization_config.activation_scheme = 'sometimes'"),
    ({**FP8, "weight_block_size": [128]}, "quantization_config.weight_block_size = [128]"),
    ({**FP8, "activation_scheme": "static", "weight_block_size": [128, 128]}, "activation_scheme = 'static'"),
    ({**CT, "config_groups": {}}, "quantization_config.config_groups is missing or empty"),
    ({**CT, "config_groups": {"g": {"weights": WEIGHTS}}}, "quantization_config.config_groups.g.targets"),
    ({**CT, "config_groups": {"g": {**GROUP, "weights": None}}}, "quantization_config.config_groups.g.weights"),
    (
        {**CT, "config_groups": {"g": {**GROUP, "weights": {**WEIGHTS, "num_bits": 9}}}},
        "quantization_config.config_groups.g.weights.num_bits = 9",
    ),
    (
        {**CT, "config_groups": {"g": {**GROUP, "weights": {**WEIGHTS, "group_size": None}}}},
        "quantization_config.config_groups.g.weights.group_size is missing",
    ),
    (
        {**CT, "config_groups": {"g": {**GROUP, "weights": {**WEIGHTS, "strategy": "spiral"}}}},
        "quantization_config.config_groups.g.weights.strategy = 'spiral'",
    ),
    ({**CT, "ignore": "lm_head"}, "quantization_config.ignore"),
    ({**CT, "config_groups": {"g": {**GROUP, "targets": ["re:("]}}}, "config_groups.g.targets: '(' is not a regular"),
    ({"quant_method": "modelopt"}, "quantization_config.quant_algo is missing"),
    ({"quant_method": "modelopt", "quant_algo": "FP3"}, "quantization_config.quant_algo = 'FP3'"),
    ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION"}, "quantization_config.quantized_layers is missing"),
    ({"quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": "16"}, "quantization_config.group_size = '16'"),
]


@pytest.mark.parametrize(("parameters", "words"), BAD)
def test_bad_input_is_one_line_that_names_the_key(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as raised:
        quantization(parameters, base_model("L8"), "org/name")
    message = str(raised.value)
    assert words in message
    assert message.startswith("org/name: ")
    assert "\n" not in message


REFUSED = [
    ({**GPTQ, "desc_act": True}, "desc_act=True) is no longer supported"),
    ({**GPTQ, "sym": False}, "Unsupported quantization config: bits=4, sym=False"),
    (
        {**CT, "config_groups": {"g": {**GROUP, "weights": {**WEIGHTS, "actorder": "group"}}}},
        "group/dynamic activation ordering (actorder='group') is no longer supported",
    ),
    ({**CT, "kv_cache_scheme": {"type": "int", "num_bits": 8}}, "Currently supported kv cache quantization is"),
    (
        {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A8_AWQ"}},
        "Unknown ModelOpt quant algo: W4A8_AWQ",
    ),
]


@pytest.mark.parametrize(("parameters", "words"), REFUSED)
def test_refusals_are_vllms_sentences(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(Refusal) as raised:
        quantization(parameters, base_model("L8"), "org/name")
    assert words in str(raised.value)


def test_activation_order_means_nothing_with_one_group() -> None:
    quantization({**GPTQ, "desc_act": True, "group_size": -1}, base_model("L8"), "org/name")


def test_requested_method_must_be_the_checkpoints() -> None:
    model = base_model("L8")
    assert quantization(AWQ, model, "x", "awq_marlin").name == "auto_awq"
    with pytest.raises(Refusal, match="does not match the quantization method specified"):
        quantization(AWQ, model, "x", "gptq")
    with pytest.raises(InputError, match="awq cannot quantize while loading"):
        quantization(None, model, "x", "awq")
    with pytest.raises(InputError, match="--quantization wizardry: unknown method"):
        quantization(None, model, "x", "wizardry")
    assert {"fp8", "awq", "gptq", "compressed-tensors", "modelopt", "mxfp4"} <= {*known_methods()}


def test_config_without_method_is_ignored_as_vllm_does() -> None:
    ignored = quantization({"quant_algo": "FP8", "producer": {"name": "modelopt"}}, base_model("L8"), "x")
    assert isinstance(ignored, Ignored)
    assert ignored.notes
    at = Placement(quantization=ignored)
    assert total(base_model("L8"), at) == total(base_model("L8"), Placement())


def test_bitsandbytes_ends_with_027() -> None:
    bnb = quantization({"quant_method": "bitsandbytes", "load_in_4bit": True}, base_model("L8"), "x")
    bnb.check_version((0, 27, 1))
    with pytest.raises(Refusal, match="Unknown quantization method: bitsandbytes"):
        bnb.check_version((0, 28, 0))
    assert not bnb.exact


def test_mixture_in_hf_quant_config_came_with_033() -> None:
    parameters = {
        "producer": {"name": "modelopt"},
        "quantization": {"quant_algo": "MIXED_PRECISION", "quantized_layers": {"lm_head": {"quant_algo": "FP8"}}},
    }
    mixed = quantization(parameters, base_model("L8"), "x")
    mixed.check_version((0, 33, 0))
    with pytest.raises(Refusal, match="Unknown ModelOpt quant algo: MIXED_PRECISION"):
        mixed.check_version((0, 32, 0))


# --- which modules ---------------------------------------------------------------------------------------------------


def scheme(parameters: dict[str, Any], name: str, *packed: str) -> object:
    module = Linear(name=name, inputs=4096, outputs=(4096,), split="column", packed=packed)
    return quantization(parameters, base_model("L8"), "x").scheme_for(module, Placement())


def test_lists_of_modules() -> None:
    attention = "model.layers.3.self_attn.qkv_proj"
    fp8 = {**FP8, "modules_to_not_convert": [f"model.layers.3.self_attn.{part}" for part in QKV]}
    assert scheme(fp8, attention, *QKV) is None
    assert scheme(fp8, "model.layers.4.self_attn.qkv_proj", *QKV) == Fp8()
    with pytest.raises(Refusal, match="some but not all shards"):
        scheme({**FP8, "modules_to_not_convert": ["model.layers.3.self_attn.q_proj"]}, attention, *QKV)
    assert scheme({**FP8, "modules_to_not_convert": ["self_attn"]}, attention, *QKV) == Fp8()
    assert scheme({**AWQ, "modules_to_not_convert": ["self_attn"]}, attention, *QKV) is None
    assert scheme({**CT, "ignore": ["re:.*self_attn.*"]}, attention, *QKV) is None
    assert scheme({**CT, "ignore": ["self_attn"]}, attention, *QKV) is not None
    modelopt = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["model.layers.3.*"]}
    assert scheme(modelopt, attention, *QKV) is None
    assert scheme({**modelopt, "ignore": ["layers.3."]}, attention, *QKV) is None


def test_per_layer_rules() -> None:
    dynamic = {r"+:.*\.0\..*": {"bits": 8}, r"-:.*o_proj": {}, r"+:.*down_proj": {"group_size": 32}}
    gptq = {**GPTQ, "dynamic": dynamic}
    assert scheme(gptq, "model.layers.0.mlp.up_proj") == Packed(width=8, group=128, stores_zeros=True)
    assert scheme(gptq, "model.layers.1.self_attn.o_proj") is None
    assert scheme(gptq, "model.layers.1.mlp.down_proj") == Packed(width=4, group=32, stores_zeros=True)
    other = {"targets": ["re:.*down_proj"], "weights": {**WEIGHTS, "num_bits": 8}}
    groups = {**CT, "config_groups": {"a": other, "b": GROUP}}
    found = scheme(groups, "model.layers.1.mlp.down_proj")
    assert isinstance(found, Packed)
    assert found.width == 8
    mixed = {
        "quant_method": "modelopt",
        "quant_algo": "MIXED_PRECISION",
        "quantized_layers": {
            **{f"model.layers.0.self_attn.{part}": {"quant_algo": "FP8"} for part in QKV},
            "model.layers.0.mlp.experts.0.up_proj": {"quant_algo": "NVFP4"},
        },
    }
    assert scheme(mixed, "model.layers.0.self_attn.qkv_proj", *QKV) == Fp8(static=True, expert_biases=False)
    assert scheme(mixed, "model.layers.0.self_attn.o_proj") is None
    assert scheme(mixed, "model.layers.0.mlp.experts") is not None


def test_renamed_modules() -> None:
    model = replace(base_model("L8"), renames=(("model.language_model.", "language_model.model."),))
    parameters = {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["model.language_model.layers.0*"]}
    found = quantization(parameters, model, "x")
    module = Linear(name="mlp.down_proj", inputs=128, outputs=(128,), split="row")
    assert found.scheme_for(module, Placement(prefix="language_model.model.layers.0.")) is None
    assert found.scheme_for(module, Placement(prefix="language_model.model.layers.1.")) is not None


def test_lm_head() -> None:
    head = LmHead(name="lm_head", rows=32000, width=4096)
    for parameters, is_quantized in (
        (AWQ, False),
        ({**AWQ, "lm_head": True}, True),
        (GPTQ, False),
        ({**GPTQ, "lm_head": True}, True),
        (CT, False),
        ({**CT, "config_groups": {"g": {**GROUP, "targets": ["Linear", "lm_head"]}}}, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, True),
        ({"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["lm_head"]}, False),
        (FP8, False),
    ):
        found = quantization(parameters, base_model("L8"), "x").scheme_for(head, Placement())
        assert (found is not None) == is_quantized, parameters


NAME = st.text(alphabet="abcxyz_.0123456789*?[re:()", max_size=40)


@given(st.lists(NAME, max_size=20), NAME, st.lists(NAME, max_size=3))
@settings(max_examples=300, deadline=None)
def test_any_name_matches_or_not(entries: list[str], name: str, packed: list[str]) -> None:
    plain = [entry for entry in entries if not entry.startswith("re:")]
    names = NameList(plain, "list")
    for match in (names.exact, names.inside, names.wildcard, names.exact_or_regex):
        assert isinstance(match(name), bool)
        with suppress(Refusal):
            assert isinstance(skipped(names, match, name, packed), bool)
    assert names.exact(name) == (name in plain)
    assert names.inside(name) == any(entry in name for entry in plain)
    assert len(shard_names(name, packed)) == len(packed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 300) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = (
    "bits", "group_size", "sym", "desc_act", "zero_point", "modules_to_not_convert", "dynamic", "lm_head", "ignore",
    "activation_scheme", "weight_block_size", "config_groups", "format", "kv_cache_scheme", "quant_algo",
    "quantization", "exclude_modules", "quantized_layers", "producer", "modules_in_block_to_quantize", "load_in_8bit",
)  # fmt: skip
SOUND = [AWQ, GPTQ, FP8, CT, {"quant_method": "modelopt", "quant_algo": "FP8"}, {"quant_method": "mxfp4"}]


@given(st.sampled_from(SOUND), st.dictionaries(st.sampled_from(KEYS), JSON, max_size=3))
@settings(max_examples=400, deadline=None)
def test_any_config_is_answered(parameters: dict[str, Any], changes: dict[str, Any]) -> None:
    model = base_model("L8")
    with suppress(InputError, Refusal):
        found = quantization({**parameters, **changes}, model, "config.json")
        assert total(model, Placement(capability=90, quantization=found)) > 0


# --- kernels ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([-1, 16, 32, 64, 128]))
def test_marlin_padding_fits_a_tile(n: int, k: int, group: int) -> None:
    padded_n, padded_k = marlin_padded(n, k, group)
    assert (padded_n % 64 == 0 and padded_k % 128 == 0) or (padded_n % 128 == 0 and padded_k % 64 == 0)
    assert padded_n >= n
    assert padded_k >= k
    assert padded_k % math.lcm(64, max(group, 1)) == 0
    assert marlin_padded(padded_n, padded_k, group) == (padded_n, padded_k)


def test_kernels_by_gpu() -> None:
    shape = PackedShape(n=4096, k=4096, full_k=4096, bits=4, group=128, zero_points=False, dtype="bfloat16")
    assert [packed_kernel(shape, c) for c in (None, 75, 80, 90, 100)] == [
        "plain",
        "marlin",
        "marlin",
        "machete",
        "marlin",
    ]
    assert packed_kernel(replace(shape, n=4096 + 64), 90) == "marlin"
    assert packed_kernel(replace(shape, bits=3), 90) == "humming"
    straddled = replace(shape, k=4096 + 64, full_k=2 * 4096)
    assert " " in packed_kernel(straddled, 80)
    assert packed_kernel(replace(straddled, dtype="float16"), 80) == "exllama"


# --- what if ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["L8", "M30", "DS"])
def test_what_if_formats(base: str) -> None:
    model = base_model(base)
    plain = total(model, Placement(capability=90))
    kept = sum(
        t.nbytes
        for module, where in modules_of(model, Placement(capability=90))
        if not isinstance(module, Linear | Experts) or not module.quantizable
        for t in module.tensors(where)
    )
    for name in RECIPES:
        if name == "fp8_block" and base == "DS":
            continue  # 10944 rows are no multiple of 128
        made = what_if(model, name)
        assert made.assumed
        weights = total(model, Placement(capability=90, quantization=made)) - kept
        bits = 16 * weights / (plain - kept)
        stored = 8 if "8" in name else 4
        assert stored <= bits < stored + 0.8, (name, bits)
    assert what_if(model, "W4A16").scheme_for(LmHead(name="lm_head", rows=64, width=64), Placement()) is None


def test_what_if_unknown() -> None:
    with pytest.raises(InputError, match="--what-if-quantization int3: unknown format; known are fp8"):
        what_if(base_model("L8"), "int3")
