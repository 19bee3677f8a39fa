"""Speculative decoding: drafts byte for byte as vLLM builds them (tests/golden/draft.jsonl.gz), and bad input."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from planner.engine.args import EngineArgs
from planner.engine.defaults import Engine, resolve
from planner.engine.version import VllmVersion
from planner.errors import InputError, Refusal
from planner.memory.budget import placement_of
from planner.memory.draft import Draft, draft_of, speculative
from planner.memory.weights import stage_weights
from planner.model.attention import KVAttention, MLAttention
from planner.model.modules import Placement
from planner.model.source import LoadedConfig, Source, load_config
from planner.request import Inputs, prepare
from planner.units import MIB
from tests.golden.lora_draft_cases import CONFIGS

GOLDEN = Path(__file__).parent / "golden" / "draft.jsonl.gz"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
EAGLE3 = "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"
MAX_SPLIT = 20 * MIB


def rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt") as file:
        return [json.loads(line) for line in file]


def load(name: str, revision: str | None = None) -> LoadedConfig:
    if name in CONFIGS:
        return LoadedConfig(name=name, source=Source.CATALOGUE, values=CONFIGS[name], where=name)
    return load_config(name, revision=revision, offline=True)


def launch(model: str, tmp_path: Path, **args: Any) -> tuple[Inputs, Engine, Placement]:
    if model in CONFIGS:
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[model]))
        model = str(tmp_path)
    with mock.patch("planner.request.load_config", load):  # knows the drafts that the catalogue has not
        inputs = prepare({"model": model, "gpu": "H100-SXM-80GB", "max_model_len": 512, **args})
    engine = resolve(inputs.model, inputs.gpu, inputs.args, inputs.version, inputs.usage)
    return inputs, engine, placement_of(engine, inputs.quantization)


def draft_for(inputs: Inputs) -> Draft:
    assert inputs.loaded is not None
    draft = draft_of(
        inputs.args, inputs.model, load, config=inputs.loaded.config, target_quantization=inputs.quantization
    )
    assert draft is not None
    return draft


def added(inputs: Inputs, engine: Engine, at: Placement, draft: Draft) -> list[list[int]]:
    """What the launch weighs more on each stage than without the draft: the draft, and buffers of the target."""
    pp = engine.pipeline_parallel_size
    with_draft = stage_weights(inputs.model, draft.placement(at), pp, max_split=MAX_SPLIT)
    plain = stage_weights(inputs.model, at, pp, max_split=MAX_SPLIT)
    more = [
        [a.tensor_bytes - b.tensor_bytes, a.block_bytes - b.block_bytes] for a, b in zip(with_draft, plain, strict=True)
    ]
    own = draft.weights(engine, at, max_split=MAX_SPLIT)
    more[-1] = [more[-1][0] + own.tensor_bytes, more[-1][1] + own.block_bytes]
    return more


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['model']} {json.dumps(row['args'])}")
def test_every_draft_as_vllm_builds_it(row: dict[str, Any], tmp_path: Path) -> None:
    inputs, engine, at = launch(row["model"], tmp_path, **row["args"])
    draft = draft_for(inputs)
    if "error" in row:
        with pytest.raises(Refusal) as refused:
            draft.weights(engine, at, max_split=MAX_SPLIT)
        assert str(refused.value) == row["error"]
        return
    if "embed_tokens" in row.get("own", ()):  # what the checkpoint holds is no more in its config than in our reach
        draft = replace(draft, shares_embedding=False)
    assert added(inputs, engine, at, draft) == row["stages"]


def test_layers_that_join_the_kv_cache(tmp_path: Path) -> None:
    eagle = {"method": "eagle3", "model": EAGLE3, "num_speculative_tokens": 3}
    mtp = {"method": "mtp", "num_speculative_tokens": 1}
    for model, spec, kind, count in (
        (LLAMA, eagle, KVAttention, 1),
        (LLAMA, {"model": "meta-llama/Llama-3.2-1B-Instruct", "num_speculative_tokens": 3}, KVAttention, 16),
        ("deepseek-ai/DeepSeek-V3", mtp, MLAttention, 1),
        ("Qwen/Qwen3-Next-80B-A3B-Instruct", mtp, KVAttention, 1),
        ("zai-org/GLM-4.5-Air", mtp, KVAttention, 1),
    ):
        draft = draft_for(launch(model, tmp_path, speculative_config=spec)[0])
        assert draft.model is not None
        assert [type(layer.state) for layer in draft.model.layers] == [kind] * count


def test_without_weights(tmp_path: Path) -> None:
    inputs, engine, at = launch(LLAMA, tmp_path, speculative_config={"method": "ngram", "num_speculative_tokens": 4})
    draft = draft_for(inputs)
    assert draft.model is None
    assert draft.weights(engine, at, max_split=MAX_SPLIT).tensor_bytes == 0
    assert draft_of(EngineArgs(), inputs.model, load) is None
    assert draft_of(EngineArgs({"spec_method": "suffix"}), inputs.model, load) is not None


def test_probabilistic_drafts_are_kept(tmp_path: Path) -> None:
    spec = {"method": "eagle3", "model": EAGLE3, "num_speculative_tokens": 3}
    inputs, engine, _ = launch(LLAMA, tmp_path, speculative_config=spec)
    greedy = draft_for(inputs).buffer_bytes(engine, inputs.model)
    inputs, engine, _ = launch(LLAMA, tmp_path, speculative_config={**spec, "draft_sample_method": "probabilistic"})
    kept = draft_for(inputs).buffer_bytes(engine, inputs.model)
    assert kept - greedy == engine.max_num_seqs * 3 * 128256 * 2


def test_shorthand_flags() -> None:
    given = speculative(EngineArgs({"spec_method": "eagle3", "spec_model": EAGLE3, "spec_tokens": 3}))
    old = speculative(EngineArgs({"speculative_model": EAGLE3, "num_speculative_tokens": 3}))
    assert given == old
    assert given is not None
    assert (given.method, given.num_speculative_tokens) == ("eagle3", 3)


def test_medusa_is_gone_in_0_33(tmp_path: Path) -> None:
    inputs, engine, at = launch(LLAMA, tmp_path)
    args = EngineArgs(speculative_config={"method": "medusa", "model": "heads", "num_speculative_tokens": 3})
    values = {"hidden_size": 4096, "vocab_size": 128256, "num_heads": 3, "num_hidden_layers": 1}

    def heads(name: str, revision: str | None) -> LoadedConfig:
        return LoadedConfig(name=name, source=Source.CATALOGUE, values=values, where=name)

    old = draft_of(args, inputs.model, heads, version=VllmVersion(0, 32, 0))
    assert old is not None
    assert old.weights(engine, at, max_split=MAX_SPLIT).tensor_bytes == 3 * 2 * 4096 * (4096 + 128256)
    new = draft_of(args, inputs.model, heads)
    assert new is not None
    with pytest.raises(Refusal, match="no longer has medusa"):
        new.check(engine)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ("ngram", "speculative_config"),
        ([], "speculative_config"),
        ({"method": "eagel3", "model": "x", "num_speculative_tokens": 3}, "speculative_config.method.*eagle3"),
        ({"method": "eagle3", "num_speculative_tokens": 3}, "speculative_config.model: missing"),
        ({"num_speculative_tokens": 3}, "speculative_config.model: missing"),
        ({"method": "ngram"}, "speculative_config.num_speculative_tokens: missing"),
        ({"method": "mtp"}, "speculative_config.num_speculative_tokens: missing"),
        ({"method": "eagle3", "model": EAGLE3}, "speculative_config.num_speculative_tokens: missing"),
        ({"method": "ngram", "num_speculative_tokens": 0}, "speculative_config.num_speculative_tokens = 0"),
        ({"method": "ngram", "num_speculative_tokens": True}, "speculative_config.num_speculative_tokens = true"),
        ({"method": "ngram", "num_speculative_tokens": "3"}, "speculative_config.num_speculative_tokens"),
        ({"method": 3, "num_speculative_tokens": 3}, "speculative_config.method = 3"),
        ({"method": "ngram", "tokens": 3}, "speculative_config.tokens: unknown key"),
    ],
)
def test_input_that_makes_no_sense_names_its_key(config: object, named: str) -> None:
    with pytest.raises(InputError, match=named) as error:
        speculative(EngineArgs(speculative_config=config))
    assert "\n" not in str(error.value)


def test_a_key_given_twice() -> None:
    args = EngineArgs({"speculative_config": {"method": "ngram", "num_speculative_tokens": 3}, "spec_tokens": 3})
    with pytest.raises(InputError, match="spec_tokens"):
        speculative(args)


def test_a_head_the_planner_does_not_know(tmp_path: Path) -> None:
    inputs, _, _ = launch(LLAMA, tmp_path)
    spec = {"method": "eagle3", "model": "Qwen/Qwen3-30B-A3B", "num_speculative_tokens": 3}
    with pytest.raises(InputError, match=r"Qwen3MoeForCausalLM.*knows no eagle3 head"):
        draft_of(EngineArgs(speculative_config=spec), inputs.model, load)


def test_what_is_not_counted_is_said(tmp_path: Path) -> None:
    inputs, engine, at = launch(LLAMA, tmp_path)
    spec = {"method": "dflash", "model": "z-lab/x", "num_speculative_tokens": 3}
    draft = draft_of(EngineArgs(speculative_config=spec), inputs.model, load)
    assert draft is not None
    assert "not counted" in draft.notes[0]
    assert draft.weights(engine, at, max_split=MAX_SPLIT).tensor_bytes == 0
