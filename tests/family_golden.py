"""What the tests of families share: rows of the golden files, and the same question answered by the planner."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from planner.memory.weights import stage_weights
from planner.model import families
from planner.model.architecture import Model
from planner.model.config import Config
from planner.model.families import build_model
from planner.model.modules import Placement
from planner.model.source import load_config
from planner.units import MIB
from tests.golden import dense_cases

FOLDER = Path(__file__).parent / "golden"
PARALLEL = {"tensor_parallel_size", "pipeline_parallel_size"}


def config_of(model: str) -> dict[str, Any]:
    return dense_cases.CONFIGS.get(model) or load_config(model, offline=True).values


def built(model: str, **changes: Any) -> Model:
    return build_model(Config(config_of(model) | changes), model)


def module_of(model: str) -> str:
    """The module of planner/model/families that builds a model."""
    architectures = config_of(model)["architectures"]
    families.known_architectures()
    builders = (families._registry.get(architecture) for architecture in architectures)
    return next((build.__module__.rpartition(".")[2] for build in builders if build), "")


@lru_cache(maxsize=4)
def _lines(file: str) -> tuple[dict[str, Any], ...]:
    path = FOLDER / file
    if not path.exists():
        return ()
    with gzip.open(path, "rt") as lines:
        return tuple(json.loads(line) for line in lines)


def _triples(stages: list[Any]) -> list[list[int]]:
    """[total, parameters and buffers, allocator blocks] of each stage."""
    if stages and isinstance(stages[0], dict):
        return [[stage["total"], stage["params"] + stage["buffers"], stage["alloc_est"]] for stage in stages]
    return stages


def rows(wanted: Callable[[str], bool]) -> list[dict[str, Any]]:
    """Unquantized rows of dense.jsonl.gz and weights.jsonl.gz whose models are built in a wanted module."""
    found = []
    for row in (*_lines("dense.jsonl.gz"), *_lines("weights.jsonl.gz")):
        if (
            set(row["args"]) - PARALLEL
            or row.get("gpu", "h100") != "h100"
            or row.get("recipe")
            or row.get("quantization")
        ):
            continue
        values = config_of(row["model"])
        if _quantized(values) or not wanted(module_of(row["model"])):
            continue
        found.append(row | {"stages": _triples(row["stages"])} if "stages" in row else row)
    return found


def _quantized(values: dict[str, Any]) -> bool:
    text = values.get("text_config")
    return "quantization_config" in values or (isinstance(text, dict) and "quantization_config" in text)


def label(row: dict[str, Any]) -> str:
    return " ".join([row["model"], *(f"{key}={value}" for key, value in row["args"].items())])


def computed(model: Model, row: dict[str, Any]) -> list[list[int]]:
    """The same triples from the planner, with a server's limits on an H100, and vLLM's own choice of dtype."""
    halved = "float16" if model.is_pooling else "bfloat16"
    at = Placement(
        tp_size=row["args"].get("tensor_parallel_size", 1),
        dtype=halved if model.dtype == "float32" else model.dtype,
        capability=90,
        max_num_batched_tokens=8192,
        max_num_seqs=1024,
    )
    stages = stage_weights(model, at, row["args"].get("pipeline_parallel_size", 1), max_split=20 * MIB)
    return [[stage.tensor_bytes, stage.parameter_bytes, stage.block_bytes] for stage in stages]
