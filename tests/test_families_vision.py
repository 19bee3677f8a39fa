"""Vision-language models against vLLM's own classes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import hf_configs
from planner.errors import InputError, Refusal
from planner.memory.weights import stage_weights
from planner.model.attention import CrossAttention
from planner.model.modules import Placement, Repeated
from tests.family_golden import built, computed, label, module_of, rows

ROWS = rows(lambda module: module == "vision")


NOT_OURS = ("Total number of attention heads", "KV sharing target", "timm", "image processor", "until v")
"""Words of what engine/rules.py refuses, and of what this way of asking vLLM lacked."""


@pytest.mark.parametrize("row", [row for row in ROWS if "stages" in row], ids=label)
def test_bytes_are_vllms(row: dict[str, Any]) -> None:
    assert computed(built(row["model"]), row) == row["stages"]


@pytest.mark.parametrize("row", [row for row in ROWS if "error" in row], ids=label)
def test_refused_where_vllm_fails(row: dict[str, Any]) -> None:
    if any(words in str(row["error"]) for words in NOT_OURS):
        pytest.skip("not about the size of layers")
    with pytest.raises(Refusal):
        computed(built(row["model"]), row)


def test_towers_are_on_the_first_stage_and_before_0_33_on_all() -> None:
    model = built("google/gemma-3-27b-it")
    at = Placement(tp_size=1)
    tower = sum(tensor.nbytes for module in model.towers for tensor in module.tensors(at))
    assert tower > 800_000_000
    first, last = stage_weights(model, at, 2, max_split=None)
    assert (first.groups["vision"], last.groups["vision"]) == (tower, 0)
    first, last = stage_weights(model, replace(at, towers_on_every_stage=True), 2, max_split=None)
    assert (first.groups["vision"], last.groups["vision"]) == (tower, tower)


def test_all_that_a_tower_holds_is_in_the_vision_group() -> None:
    for name in hf_configs.names():
        if module_of(name) == "vision":
            assert {module.group for module in built(name).towers} == {"vision"}


def test_the_head_is_tied_where_the_top_of_the_config_says_so() -> None:
    assert built("qwen3vl").tied == ()
    assert built("qwen3vl", tie_word_embeddings=True).tied != ()
    assert built("qwen2vl").tied != ()


def test_names_are_vllms_own() -> None:
    model = built("google/gemma-3-4b-it")
    assert model.layer_prefix == "language_model.model.layers."
    assert "language_model.model.embed_tokens" in {module.name for module in model.everywhere}
    repeated = next(module for module in model.towers if isinstance(module, Repeated))
    assert repeated.name == "vision_tower.vision_model.encoder.layers."
    assert repeated.count == 27


def test_cross_attention_layers_of_llama_3_2() -> None:
    model = built("meta-llama/Llama-3.2-11B-Vision-Instruct")
    crossing = [i for i, layer in enumerate(model.layers) if isinstance(layer.state, CrossAttention)]
    assert crossing == [3, 8, 13, 18, 23, 28, 33, 38]
    assert not model.supports_pp


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("llava", {"vision_feature_layer": -9}, "vision_feature_layer"),
        ("llava", {"vision_feature_layer": []}, "vision_feature_layer"),
        ("llava", {"vision_config": {"model_type": "swin", "hidden_size": 64}}, "vision_config.model_type"),
        ("llava", {"text_config": {"model_type": "unheard-of"}}, "text_config.model_type"),
        ("google/gemma-3-4b-it", {"vision_config": {"num_attention_heads": 7}}, "vision_config.num_attention_heads"),
        ("google/gemma-3n-E2B-it", {"vision_config": {"architecture": "resnet"}}, "vision_config.architecture"),
        ("qwen3vl", {"vision_config": {"depth": 0}}, "vision_config."),
        ("meta-llama/Llama-3.2-11B-Vision-Instruct", {"text_config": {"cross_attention_layers": [99]}}, "layers"),
    ],
)
def test_a_contradictory_config_names_its_key(model: str, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        built(model, **changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
