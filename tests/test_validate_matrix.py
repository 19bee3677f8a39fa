"""Predicted and measured agree to the byte and to the token: every kind of model, whole and on two ranks.

The models are real configs with fewer and smaller layers, and one quantized checkpoint whose tensors are written here.
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from planner.engine.measure import Measurement
from planner.engine.workplace import engine_args, environment
from planner.request import prepare
from planner.validate.compare import compare
from planner.validate.trial import Options, Trial, for_device, trial_of
from tests.cpu_engine import ON_CPU_ENGINE

pytestmark = ON_CPU_ENGINE

ROOM = (1 << 28) + 12_345_678  # no multiple of any block


def catalogue(name: str, **changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((files("hf_configs") / name / "config.json").read_text(encoding="utf-8"))
    return {**values, **changes}


SMALL = {"hidden_size": 512, "vocab_size": 2048, "num_attention_heads": 8, "num_experts_per_tok": 2}

INT8: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "vocab_size": 1024,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"},
                "input_activations": {
                    "num_bits": 8,
                    "type": "int",
                    "symmetric": True,
                    "strategy": "token",
                    "dynamic": True,
                },
            }
        },
    },
}
"""As llm-compressor writes a model in W8A8."""

MODELS: dict[str, dict[str, Any]] = {
    "dense": catalogue("Qwen--Qwen2.5-0.5B", num_hidden_layers=4),
    "sliding": catalogue("google--gemma-3-270m-it", num_hidden_layers=8),
    "moe": catalogue(
        "Qwen--Qwen3-30B-A3B",
        **SMALL,
        num_hidden_layers=2,
        num_experts=8,
        moe_intermediate_size=128,
        num_key_value_heads=4,
        max_window_layers=2,
    ),
    "mla": catalogue(
        "deepseek-ai--DeepSeek-V2-Lite",
        **SMALL,
        num_hidden_layers=3,
        n_routed_experts=8,
        intermediate_size=512,
        moe_intermediate_size=128,
        num_key_value_heads=8,
    ),
    "mamba": catalogue(
        "ibm-granite--granite-4.0-h-tiny",
        **SMALL,
        num_hidden_layers=4,
        layer_types=["mamba", "attention", "mamba", "mamba"],
        num_local_experts=8,
        intermediate_size=256,
        shared_intermediate_size=256,
        num_key_value_heads=4,
        mamba_n_heads=16,
        mamba_d_head=64,
    ),
    "int8": INT8,
}

SPLITS: dict[str, dict[str, int]] = {
    "whole": {},
    "tp2": {"tensor_parallel_size": 2},
    "pp2": {"pipeline_parallel_size": 2},
}
CASES = [(name, split) for split in ("whole", "tp2") for name in MODELS] + [("dense", "pp2")]


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trial]:
    folder = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(config))
    write_int8(folder / "int8")
    return {f"{name} {split}": made(folder / name, SPLITS[split]) for name, split in CASES}


def made(model: Path, split: dict[str, int]) -> Trial:
    args = {"dtype": "bfloat16", "max_model_len": 2048, "kv_cache_memory_bytes": ROOM, **split}
    inputs = prepare({"model": str(model), "gpu": "cpu", "usage": "offline", **args})
    return trial_of(model.name, for_device(inputs, "cpu"), Options(device="cpu"))


def write_int8(folder: Path) -> None:
    from safetensors.numpy import save_file

    random = np.random.default_rng(0)
    hidden, mlp, vocab = INT8["hidden_size"], INT8["intermediate_size"], INT8["vocab_size"]
    heads, kv = (INT8["head_dim"] * INT8[f"num_{kind}_heads"] for kind in ("attention", "key_value"))
    tensors: dict[str, Any] = {
        "model.embed_tokens.weight": random.standard_normal((vocab, hidden), dtype=np.float32),
        "lm_head.weight": random.standard_normal((vocab, hidden), dtype=np.float32),
        "model.norm.weight": np.ones(hidden, np.float32),
    }
    shapes = {
        "self_attn.q_proj": (heads, hidden),
        "self_attn.k_proj": (kv, hidden),
        "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, heads),
        "mlp.gate_proj": (mlp, hidden),
        "mlp.up_proj": (mlp, hidden),
        "mlp.down_proj": (hidden, mlp),
    }
    for layer in range(INT8["num_hidden_layers"]):
        for name, shape in shapes.items():
            weight = random.integers(-127, 128, shape, dtype=np.int8)
            tensors[f"model.layers.{layer}.{name}.weight"] = weight
            tensors[f"model.layers.{layer}.{name}.weight_scale"] = np.full((shape[0], 1), 1e-3, np.float32)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{norm}.weight"] = np.ones(hidden, np.float32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.fixture(scope="module")
def measured(trials: dict[str, Trial], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Measurement]:
    """Every engine, one after another; one that does not start ends the rest."""
    folder = tmp_path_factory.mktemp("engines")
    specs = {}
    for name, trial in trials.items():
        assert trial.spec is not None
        model = trial.request["model"]
        args = engine_args(trial.spec, has_checkpoint=trial.spec.model_path is not None)
        specs[name] = {"usage": "offline", "engine_args": {**args, "model": model, "skip_tokenizer_init": True}}
    (folder / "cases.json").write_text(json.dumps(specs))
    largest = next(trial.spec for name, trial in trials.items() if name.endswith("tp2"))
    assert largest is not None
    surroundings = {**environment(largest, folder), "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    script = Path(__file__).with_name("engine_matrix.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(folder / "cases.json")],
        env=surroundings,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=1500,
        check=False,
        start_new_session=True,
    )
    lines = [line.partition("EVENTS ")[2] for line in ended.stdout.splitlines() if line.startswith("EVENTS ")]
    found = {name: Measurement.of(events, ()) for name, events in map(json.loads, lines)}
    if len(found) < len(specs):
        print(ended.stdout[-5000:])
    return found


@pytest.mark.parametrize(("model", "split"), CASES)
def test_the_engine_has_what_was_predicted(
    trials: dict[str, Trial], measured: dict[str, Measurement], model: str, split: str
) -> None:
    if model == "mla" and _has_amx():
        pytest.skip("AMX_MLA takes another block size than the CPU_MLA that is modelled")
    name = f"{model} {split}"
    rows = {row.name: row for row in compare(trials[name].estimate, measured[name])}
    ranks = {"whole": 1, "tp2": 2, "pp2": 2}[split]
    names = [f"weights, rank {rank}" for rank in range(ranks)]
    names += ["block size", "KV cache blocks", "KV cache size", "maximum concurrency"]
    assert [(name, rows[name].measured) for name in names] == [(name, rows[name].predicted) for name in names]
    assert all(rows[name].exact for name in names)


def _has_amx() -> bool:
    try:
        return "amx_tile" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
