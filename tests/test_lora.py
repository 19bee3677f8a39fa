"""LoRA slots: byte for byte as vLLM allocates them (tests/golden/lora.jsonl.gz), and what it refuses."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from planner.engine.defaults import Engine, resolve
from planner.errors import InputError, Refusal
from planner.memory.budget import placement_of
from planner.memory.lora import LoraBytes, lora_config, lora_stages
from planner.memory.weights import pipeline_ranges
from planner.model.modules import Placement
from planner.request import Inputs, prepare
from planner.units import MIB

GOLDEN = Path(__file__).parent / "golden" / "lora.jsonl.gz"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"


def rows() -> list[dict[str, Any]]:
    with gzip.open(GOLDEN, "rt") as file:
        return [json.loads(line) for line in file]


def launch(model: str, **args: Any) -> tuple[Inputs, Engine, Placement]:
    inputs = prepare({"model": model, "gpu": "H100-SXM-80GB", "max_model_len": 512, "enable_lora": True, **args})
    engine = resolve(inputs.model, inputs.gpu, inputs.args, inputs.version, inputs.usage)
    return inputs, engine, placement_of(engine, inputs.quantization)


def sizes(model: str, **args: Any) -> tuple[LoraBytes, ...]:
    inputs, engine, at = launch(model, **args)
    ranges = pipeline_ranges(len(inputs.model.layers), engine.pipeline_parallel_size)
    return lora_stages(inputs.model, engine, at, ranges, max_split=20 * MIB)


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row['model']} {json.dumps(row['args'])}")
def test_every_slot_as_vllm_allocates_it(row: dict[str, Any]) -> None:
    if "error" in row:
        (reason,) = launch(row["model"], **row["args"])[0].estimate().reasons
        assert reason.message.removeprefix("max_lora_rank: ") in row["error"]
        return
    got = [[stage.tensor_bytes, stage.block_bytes] for stage in sizes(row["model"], **row["args"])]
    assert got == row["stages"]


def test_nothing_without_enable_lora() -> None:
    assert sizes(LLAMA, enable_lora=False) == (LoraBytes(),)


def test_bytes_grow_with_slots_and_rank() -> None:
    one = sizes(LLAMA)[0].tensor_bytes
    buffers = 4 * 8 * 8192 + 3 * 8 * 1024 + 2 * (2 * 4 * 8192 + 4 * (2 + 2 + 3))
    assert sizes(LLAMA, max_lora_rank=64)[0].tensor_bytes - buffers == 4 * (one - buffers)
    assert sizes(LLAMA, max_loras=2)[0].tensor_bytes > 1.9 * one


def test_target_modules_name_a_fused_linear_or_one_of_its_parts() -> None:
    assert sizes(LLAMA, lora_target_modules=["up_proj"]) == sizes(LLAMA, lora_target_modules=["gate_up_proj"])
    assert sizes(LLAMA, lora_target_modules=["o_proj"])[0].tensor_bytes < sizes(LLAMA)[0].tensor_bytes


def test_a_target_that_no_lora_layer_takes_is_refused() -> None:
    with pytest.raises(Refusal, match="in_proj matched the deployment configuration but could not be wrapped"):
        sizes(
            "nvidia/NVIDIA-Nemotron-Nano-9B-v2",
            tensor_parallel_size=2,
            fully_sharded_loras=True,
            lora_target_modules=["in_proj"],
        )


def test_a_rank_that_full_sharding_cannot_divide_is_refused() -> None:
    with pytest.raises(Refusal, match="1 is not divisible by 2"):
        sizes(LLAMA, tensor_parallel_size=2, fully_sharded_loras=True, max_lora_rank=1)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"lora_dtype": "int8"}, "lora_dtype"),
        ({"lora_target_modules": [3]}, "lora_target_modules"),
    ],
)
def test_input_that_makes_no_sense_names_its_key(args: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        sizes(LLAMA, **args)


def test_lora_dtype_is_the_models_unless_given() -> None:
    _, engine, _ = launch(LLAMA, dtype="float16")
    config = lora_config(engine)
    assert config is not None
    assert config.dtype == "float16"
