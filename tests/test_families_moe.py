"""Mixture-of-experts families against vLLM's own classes, and against the parameter counts that were published."""

from __future__ import annotations

import gzip
import json
from math import ceil
from pathlib import Path
from typing import Any

import pytest

import hf_configs
from planner.errors import InputError, Refusal
from planner.memory.weights import stage_weights
from planner.model.architecture import Model
from planner.model.config import Config, load_config
from planner.model.families import build_model
from planner.model.modules import Experts, Linear, Module, Placement
from planner.units import MIB
from tests.golden.family_cases import CONFIGS, plain

GOLDEN = Path(__file__).parent / "golden" / "families.jsonl.gz"


def rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt") as file:
        return [json.loads(line) for line in file]


def config_of(model: str) -> dict[str, Any]:
    return CONFIGS[model] if model in CONFIGS else plain(load_config(model, offline=True).values)


def built(model: str, **changes: Any) -> Model:
    values = config_of(model) | changes
    return build_model(Config({key: value for key, value in values.items() if value is not None}), model)


def computed(model: Model, args: dict[str, Any]) -> list[list[int]]:
    tp = args.get("tensor_parallel_size", 1)
    at = Placement(
        tp_size=tp,
        expert_parallel_size=tp if args.get("enable_expert_parallel") else 1,
        dtype=model.dtype,
        capability=90,
        max_num_batched_tokens=8192,
        max_num_seqs=1024,
    )
    stages = stage_weights(model, at, args.get("pipeline_parallel_size", 1), max_split=20 * MIB)
    return [[stage.tensor_bytes, stage.parameter_bytes, stage.block_bytes] for stage in stages]


def label(row: dict[str, Any]) -> str:
    return " ".join([row["model"], *(f"{key}={value}" for key, value in row["args"].items())])


NOT_EXACT = {
    # A stage that starts with a layer without an indexer makes it a group of its own, which no layer knows of.
    "glm-dsa-skips pipeline_parallel_size=2",
}


@pytest.mark.parametrize("row", [row for row in rows() if "stages" in row], ids=label)
def test_bytes_are_vllms(row: dict[str, Any]) -> None:
    if label(row) in NOT_EXACT:
        pytest.xfail("known, and explained in NOT_EXACT")
    assert computed(built(row["model"]), row["args"]) == row["stages"]


REFUSED_ELSEWHERE = ("Total number of attention heads", "SupportsPP")
"""What engine/rules.py refuses before any layer is looked at; SupportsPP also here."""


@pytest.mark.parametrize("row", [row for row in rows() if "error" in row], ids=label)
def test_refused_where_vllm_fails(row: dict[str, Any]) -> None:
    if REFUSED_ELSEWHERE[0] in row["error"]:
        return
    with pytest.raises(Refusal):
        computed(built(row["model"]), row["args"])


# --- published parameter counts ------------------------------------------------------------------------------------

BLOCK = 128


def block_scales(model: Model) -> int:
    """Scales of a checkpoint in fp8 blocks of 128 x 128, which published counts include; routers have none.

    DeepSeek's MTP layers are quantized too, except for eh_proj.
    """

    def of(module: Module) -> int:
        if isinstance(module, Linear):
            whole = not module.quantizable or module.name.endswith(("gate", "indexer.weights_proj"))
            return 0 if whole else sum(ceil(n / BLOCK) for n in module.local_rows(1)) * ceil(module.inputs / BLOCK)
        if isinstance(module, Experts):
            return 3 * module.count * ceil(module.intermediate / BLOCK) * ceil(module.hidden / BLOCK)
        return 0

    layers = [sum(of(module) for module in layer.modules) for layer in model.layers]
    return sum(layers) + (layers[-1] if model.extra_parameters else 0)


ARCHITECTURES = (
    "Mixtral",
    "Moe",
    "Deepseek",
    "Kimi",
    "GptOss",
    "MiniMax",
    "Dbrx",
    "Jamba",
    "Nemotron",
    "DeciLM",
    "Qwen3Next",
    "Qwen3_5",
    "Mamba",
    "Llama4",
)
PUBLISHED = [
    entry
    for entry in hf_configs.index().values()
    if entry.params_published is not None and entry.check not in ("not comparable", "no comparison")
]
UNEXPLAINED = {
    # 64 for each of 27 layers: tensors of the checkpoint that are neither the model's nor the biases of 26 routers.
    "moonshotai/Moonlight-16B-A3B-Instruct": 27 * 64,
}


def entry_id(entry: hf_configs.IndexEntry) -> str:
    return entry.model


@pytest.mark.parametrize("entry", PUBLISHED, ids=entry_id)
def test_published_counts_are_exact_or_explained(entry: hf_configs.IndexEntry) -> None:
    loaded = load_config(entry.model, offline=True)
    architecture = loaded.values["architectures"][0]
    if not any(part in architecture for part in ARCHITECTURES):
        pytest.skip("another family")
    model = build_model(loaded.config, entry.model)
    extra = sum(model.extra_parameters.values())
    explained = {
        0: "exact",
        extra: "layers that the main model does not load",
        block_scales(model): "scales",
        extra + block_scales(model): "both",
        UNEXPLAINED.get(entry.model, 0): "unexplained",
    }
    assert entry.params_published is not None
    assert entry.params_published - model.parameters in explained, (
        entry.params_published - model.parameters,
        explained,
    )


# --- bad configs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (
            "mistralai/Mixtral-8x7B-v0.1",
            {"num_experts_per_tok": 9},
            "num_experts_per_tok = 9 exceeds num_local_experts",
        ),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_local_experts": 0}, "num_local_experts must be at least 1"),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_local_experts": "8"}, "num_local_experts must be a whole number"),
        ("mistralai/Mixtral-8x7B-v0.1", {"num_key_value_heads": 5}, "num_key_value_heads"),
        ("deepseek-ai/DeepSeek-V3", {"n_routed_experts": 4}, "num_experts_per_tok = 8 exceeds n_routed_experts = 4"),
        ("nvidia/MiniMax-M3-NVFP4", {"text_config": {"num_local_experts": 8}}, "text_config."),
        ("databricks/dbrx-instruct", {"ffn_config": {}}, "ffn_config.moe_num_experts is missing"),
        ("deepseek-ai/DeepSeek-V4-Flash", {"compress_ratios": [4, 4]}, "compress_ratios lists 2 layers"),
        ("deepseek-ai/DeepSeek-V4-Flash", {"compress_ratios": [3] * 44}, "compress_ratios may only hold"),
        ("glm-dsa", {"q_lora_rank": None, "model_type": "other"}, "q_lora_rank"),
    ],
)
def test_a_contradictory_config_names_its_key(model: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        built(model, **changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_the_copy_of_kv_b_proj_is_kept_only_beside_a_quantized_one() -> None:
    copies = [module for module in built("deepseek-ai/DeepSeek-V3").layers[0].modules if "mla_attn" in module.name]
    at = Placement(tp_size=8)
    assert sum(tensor.nbytes for module in copies for tensor in module.tensors(at)) == 6 * 4


def test_only_deepseek_v32_layers_with_an_indexer_keep_its_cache() -> None:
    model = built("glm-dsa-skips")
    sizes = [layer.state.index_head_dim for layer in model.layers]  # type: ignore[union-attr]
    assert sizes == [128, 128, None, None, None, 128, None, None]
    assert all(layer.state.index_head_dim == 128 for layer in built("glm-dsa").layers)  # type: ignore[union-attr]
