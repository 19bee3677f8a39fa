"""Measured launches as requests: which rows can be predicted, and what was left out, by reason."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import hf_configs
from planner.calibration.own import own_rows
from planner.engine.version import OLDEST, VllmVersion, parse_version
from planner.errors import InputError
from planner.hardware.catalogue import find_gpu
from planner.memory.budget import Estimate
from planner.model.source import load_config
from planner.request import Inputs, prepare

MEASURED = Path(__file__).parent.parent / "measured"
ROWS = (MEASURED / "launches.jsonl", MEASURED / "launches-more.jsonl")
READ_AGAIN = MEASURED / "read-again.jsonl"
"""What a row's source says beyond the row, or what follows from it; each entry with its reason."""

_ARGUMENTS = {
    "tp": "tensor_parallel_size",
    "pp": "pipeline_parallel_size",
    "dp": "data_parallel_size",
    "max_model_len": "max_model_len",
    "max_num_seqs": "max_num_seqs",
    "max_num_batched_tokens": "max_num_batched_tokens",
    "gpu_memory_utilization": "gpu_memory_utilization",
    "enforce_eager": "enforce_eager",
    "block_size": "block_size",
}
"""A row's keys under vLLM's names."""

_CARDS = (
    (r"RTX 4090 class", "RTX 4090"),
    (r"RTX 4080 class", "RTX 4080"),
    (r"^H100-80GB|^H100 80GB|^H100$", "H100-SXM-80GB"),
    (r"^H200 \(", "H200"),
    (r"GH200-96GB", "GH200"),
    (r"^A100-40GB", "A100-SXM4-40GB"),
    (r"^80GB Hopper", "H100-SXM-80GB"),
    (r"^(24 ?GB|24 GB) .*(WSL|card)", "RTX 4090"),
    (r"^16 ?GB .*card", "RTX 4080"),
    (r"^48 ?GB", "L40S"),
    (r"^96 ?GB", "RTX PRO 6000"),
    (r"^12 GB laptop|^8 GB card", "RTX 4070"),
    (r"^141GB card", "H200"),
    (r"^L4", "L4"),
)
"""Words of a row's card that are no name, and the card of that class that stands in for it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Launch:
    """One measured launch that the planner can predict."""

    row: Mapping[str, Any]
    inputs: Inputs
    flags_known: bool
    """Version, and the flags that size the profile run, were stated (or are defaults that its log shows), and no
    variable of the environment is known to change what is measured."""
    environment: str | None = None
    """What is known to be set there that the planner is not told."""
    inferred: tuple[str, ...] = ()
    """What the row does not state and was inferred: "version", "card"."""

    @property
    def id(self) -> str:
        """The row's own id in measured-launches.jsonl."""
        return str(self.row["id"])

    @property
    def source(self) -> str:
        """Where it was published."""
        return source_of(self.row)

    @property
    def version(self) -> VllmVersion:
        """The vLLM version that it is judged by, inferred or stated."""
        return self.inputs.version

    def measured(self, name: str) -> float | None:
        """A figure of the row in GiB, or None."""
        value = self.row["measured"].get(name)
        return float(value) if isinstance(value, int | float) else None

    @cached_property
    def estimate(self) -> Estimate:
        """What is predicted of it, by the constants in force."""
        return self.inputs.estimate()


def source_of(row: Mapping[str, Any]) -> str:
    """Who measured: a repository with all its files and threads, or one log. The split between fit and report is by
    this, so that what was measured together stays together."""
    found = re.match(r"https?://(?:www\.)?github\.com/([^/]+)/([^/]+)", str(row["source"]))
    if found and found[2] != "vllm":
        return f"{found[1]}/{found[2]}".lower()
    if row["source"] != "log in a public repository":
        return str(row["source"])
    return re.sub(r"(-v\d+|-[a-z]|-\d+k?|-(base|short|fail|ok|cold|warm))$", "", str(row["id"]).split("-n")[0])


@cache
def launches(*own: Path) -> tuple[tuple[Launch, ...], Mapping[str, int]]:
    """(the launches that can be predicted, how many rows were left out for which reason).

    own: files of the person's own measurements (`explain-log --save`, `history --export launches`), beside those of
    the repository.
    """
    found: list[Launch] = []
    left_out: dict[str, int] = {}
    seen: set[str] = set()
    for row in rows(*own):
        same = json.dumps([row["source"], row.get("date"), row["model"], row["measured"]], sort_keys=True)
        launch = launch_of(row) if same not in seen else "it stands in another row already"
        seen.add(same)
        if isinstance(launch, Launch):
            found.append(launch)
        else:
            left_out[launch] = left_out.get(launch, 0) + 1
    return tuple(found), left_out


def _is_quantized(model: str) -> bool:
    return "quantization_config" in load_config(model).values


def rows(*own: Path) -> Iterator[dict[str, Any]]:
    """Every row, with what was read again in its source; keys that it takes back are gone."""
    ours = (json.loads(line) for path in ROWS for line in path.read_text(encoding="utf-8").splitlines())
    for row in (*ours, *(row for path in own if path.exists() for row in own_rows(path, "launches"))):
        for reading in readings(str(row["id"])):
            row |= reading.get("set", {})
        yield {key: value for key, value in row.items() if value is not None}


def readings(row_id: str) -> Iterator[Mapping[str, Any]]:
    """The entries of READ_AGAIN for a row: by the beginning of its id."""
    return (entry for entry in _read_again() if row_id.startswith(entry["rows"]))


@cache
def _read_again() -> tuple[Mapping[str, Any], ...]:
    return tuple(json.loads(line) for line in READ_AGAIN.read_text(encoding="utf-8").splitlines())


def version_of(row: Mapping[str, Any]) -> tuple[str | None, bool]:
    """(the version, whether it was inferred); None where nothing says it."""
    text = str(row.get("vllm_version") or "")
    if re.fullmatch(r"\d+\.\d+(\.\d+)?(\.post\d+|\.\d+)?", text):
        return text, False
    known = next((entry["version"] for entry in readings(str(row["id"])) if "version" in entry), None)
    if known is not None:
        return str(known), True
    said = re.search(r"0\.(\d+)(?:\.(\d+))?", text)
    return (said[0], True) if said and int(said[1]) >= OLDEST.minor else (None, False)


def card_of(row: Mapping[str, Any]) -> tuple[str | None, bool]:
    """(a card of the catalogue, whether it stands in for what the row says)."""
    text = str(row.get("gpu") or "")
    try:
        return find_gpu(text).name, False
    except InputError:
        pass
    bare = re.sub(r"\s*\(.*", "", text).strip()
    for pattern, name in _CARDS:
        if re.search(pattern, text):
            return name, not bare.startswith(("H100", "H200", "GH200", "A100", "L4"))
    try:
        return find_gpu(bare).name, False
    except InputError:
        return None, True


def request_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row's own arguments, without model, card and version."""
    request: dict[str, Any] = {}
    for key, name in _ARGUMENTS.items():
        if row.get(key) is not None and (key, row[key]) != ("dp", 1):  # versions before 0.8 lack the flag
            request[name] = row[key]
    total, free = row.get("device_total_gib"), row["measured"].get("free_gib_on_start")
    if total is not None:
        request["gpu_memory_gib"] = total
        if free is not None:
            request["gpu_memory_used_gib"] = max(0.0, round(total - free, 3))
    for key in ("kv_cache_dtype", "dtype", "usage"):
        if row.get(key) is not None:
            request[key] = row[key]
    if row.get("ep"):
        request["enable_expert_parallel"] = True
    for reading in readings(str(row["id"])):
        request |= reading.get("request", {})
    return {**request, **row.get("engine", {})}


def launch_of(row: Mapping[str, Any]) -> Launch | str:
    """The launch of a row, or why it cannot be asked for (no config, version or card; odd flags)."""
    model = hf_configs.find(str(row["model"]))
    if model is None:
        return "its config is not in the catalogue"
    version, inferred_version = version_of(row)
    if version is None:
        return "its vLLM version is not known"
    card, inferred_card = card_of(row)
    if card is None:
        return "its card is not known"
    try:
        parse_version(version)
        request = {**request_of(row), "model": model, "gpu": card, "vllm_version": version}
        if row.get("quantization") == "fp8" and not _is_quantized(model):
            request["quantization"] = "fp8"
        inputs = prepare(request)
    except InputError as error:
        return f"it cannot be asked for: {str(error).split(';')[0][:80]}"
    stated = all(row.get(key) is not None for key in ("max_num_seqs", "max_num_batched_tokens")) or "engine" in row
    inferred = tuple(name for name, is_so in (("version", inferred_version), ("card", inferred_card)) if is_so)
    read = list(readings(str(row["id"])))
    environment = next((reading["environment"] for reading in read if "environment" in reading), None)
    known = not inferred and environment is None and (stated or any(reading.get("all_flags") for reading in read))
    return Launch(row=row, inputs=inputs, flags_known=known, environment=environment, inferred=inferred)
