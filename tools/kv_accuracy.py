"""Predicts the KV cache of every public launch whose config is known, from the available bytes it printed.

    python tools/kv_accuracy.py                    # a table in Markdown, as in docs/kv-cache.md
    python tools/kv_accuracy.py --write docs/kv-cache.md    # puts it between the markers there
    python tools/kv_accuracy.py --all              # every launch, not only those that differ

A launch agrees when its tokens lie between the predictions for the ends of the printed GiB's rounding (± 0.005 GiB),
or within 0.5 % of them. Every other one must be explained in EXPLAINED, or the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from planner.engine.args import EngineArgs
from planner.engine.defaults import resolve
from planner.engine.version import VllmVersion, parse_version
from planner.errors import InputError, Refusal
from planner.hardware.catalogue import Gpu, find_gpu, with_memory
from planner.memory.kv_cache import plan_kv_cache
from planner.memory.kv_cache.dtypes import checkpoint_kv_dtype
from planner.model.architecture import Model
from planner.model.families import build_model
from planner.model.source import LoadedConfig, load_config
from planner.units import GIB

ROOT = Path(__file__).resolve().parents[1]
LAUNCHES = ROOT / "planner" / "measured" / "launches.jsonl"
BEGIN, END = "<!-- kv_accuracy: begin -->", "<!-- kv_accuracy: end -->"
TOLERANCE = 0.005
ERAS = ("0.33.0", "0.28.0", "0.24.0", "0.19.0", "0.12.0", "0.11.2", "0.10.2", "0.9.2", "0.8.5", "0.6.6")
"""Tried in turn for a launch that does not state its version."""


@dataclass(frozen=True)
class Why:
    """Why a launch differs from what its row states, and the arguments that bring it back."""

    text: str
    args: Mapping[str, Any] = field(default_factory=dict)
    """Not stated in the row; with them the prediction must agree."""


_PREFIX = Why("prefix caching of a hybrid, not stated", {"enable_prefix_caching": True})
_OTHER_RANK = Why("the GiB is the first stage's; the last one, with lm_head and the logits, has less and decides")
_OLD_DEEPSEEK_V4 = Why("0.20 and 0.21, DeepSeek-V4's first, laid its caches out otherwise; 0.24 and later are modelled")
EXPLAINED: dict[str, Why] = {
    "llmdp-meta-llama-llama-3-1-8b---tp1pp2dp1--8192": _OTHER_RANK,
    "llmdp-meta-llama-llama-3-1-8b---tp1pp4dp1--8192": _OTHER_RANK,
    "club3090-612": _PREFIX,
    "club3090-612-a": _PREFIX,
    "club3090-652": _PREFIX,
    "club3090-652-a": _PREFIX,
    "qwen36-27b-nvfp4-gb-a": Why(
        "a multi-token predictor with 3 tokens (the notes name the predictor)",
        {"speculative_config": {"method": "mtp", "num_speculative_tokens": 3}},
    ),
    "thor-gemma4-26b": Why("an fp8 KV cache, not stated", {"kv_cache_dtype": "fp8"}),
    "gptoss120b-h100-v0251": Why(
        "max_num_batched_tokens 1024, not stated", {"max_num_batched_tokens": 1024, "max_num_seqs": 256}
    ),
    "dsv4flash-2xGB10-200k-v0211": _OLD_DEEPSEEK_V4,
    "dsv4flash-h200nvl-tp8-020": _OLD_DEEPSEEK_V4,
}
"""By launch id."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One launch beside its prediction."""

    id: str
    model: str
    version: str
    gpu: str
    parallel: str
    available_gib: float
    measured: int
    low: int
    predicted: int
    high: int
    with_why: int | None = None
    """Predicted with the arguments of its explanation."""

    @property
    def difference(self) -> float:
        """Of the tokens, beyond what rounding the available GiB explains; 0 inside."""
        if self.low <= self.measured <= self.high:
            return 0.0
        near = self.low if self.measured < self.low else self.high
        return self.measured / near - 1 if near else 1.0

    @property
    def agrees(self) -> bool:
        return abs(self.difference) <= TOLERANCE

    @property
    def why(self) -> str:
        """For the table."""
        if self.agrees:
            return ""
        known = EXPLAINED.get(self.id)
        if known is None:
            return "unexplained"
        return known.text if self.with_why is None else f"{known.text}: {self.with_why:,}"

    @property
    def is_explained(self) -> bool:
        if self.agrees:
            return True
        if self.id not in EXPLAINED:
            return False
        return self.with_why is None or abs(self.measured / self.with_why - 1) <= TOLERANCE


def launches(path: Path) -> Iterator[dict[str, Any]]:
    """Those that say both how many bytes there were and how many tokens they held."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        measured = row["measured"]
        if "available_kv_gib" in measured and "kv_cache_tokens" in measured and measured["available_kv_gib"] > 0:
            yield row


def predict(row: dict[str, Any]) -> Result | None:
    """None where the model's config is not in the catalogue."""
    try:
        loaded = load_config(row["model"], offline=True)
        model = build_model(loaded.config, row["model"])
        gpu = _gpu(row)
    except InputError:
        return None
    known = EXPLAINED.get(row["id"])
    found = _best(row, loaded, model, gpu, {})
    if found is None or found.agrees or known is None or not known.args:
        return found
    again = _best(row, loaded, model, gpu, known.args)
    return found if again is None else replace(found, version=again.version, with_why=again.predicted)


def _best(row: dict[str, Any], loaded: LoadedConfig, model: Model, gpu: Gpu, more: Mapping[str, Any]) -> Result | None:
    """For a launch of unknown version: that of ERAS whose prediction is nearest."""
    stated = row.get("vllm_version")
    found: Result | None = None
    for text in [stated] if stated else ERAS:
        try:
            version = parse_version(text)
        except InputError:
            return None
        shown = str(version) if stated else f"({version.major}.{version.minor})"
        result = _at(row, loaded, model, gpu, version, shown, more)
        if result is not None and (found is None or abs(result.difference) < abs(found.difference)):
            found = result
    return found


def _gpu(row: dict[str, Any]) -> Gpu:
    """The card; where the row does not name one that is known, any that can run what it says."""
    name = (row.get("gpu") or "").partition("(")[0].strip()
    try:
        gpu = find_gpu(name)
    except InputError:
        gpu = find_gpu("RTX 4090" if "24" in name else "H200" if "H200" in name else "H100")
    return with_memory(gpu, row["device_total_gib"]) if row.get("device_total_gib") else gpu


def _at(
    row: dict[str, Any],
    loaded: LoadedConfig,
    model: Model,
    gpu: Gpu,
    version: VllmVersion,
    shown: str,
    more: Mapping[str, Any],
) -> Result | None:
    measured = row["measured"]
    quantization = loaded.values.get("quantization_config") or loaded.quant_config or {}
    try:
        engine = resolve(model, gpu, EngineArgs({**_args(row), **more}), version, "server")
        tokens = [
            plan_kv_cache(
                model,
                engine,
                gpu,
                [int((measured["available_kv_gib"] + rounding) * GIB)] * engine.pipeline_parallel_size,
                checkpoint_kv_dtype=checkpoint_kv_dtype(quantization, version),
            ).tokens
            for rounding in (-0.005, 0.0, 0.005)
        ]
    except (Refusal, InputError):
        return None
    return Result(
        id=row["id"],
        model=row["model"],
        version=shown,
        gpu=row.get("gpu") or "?",
        parallel=f"{row.get('tp') or 1}/{row.get('pp') or 1}",
        available_gib=measured["available_kv_gib"],
        measured=measured["kv_cache_tokens"],
        low=tokens[0],
        predicted=tokens[1],
        high=tokens[2],
    )


def _args(row: dict[str, Any]) -> dict[str, Any]:
    names = {
        "tensor_parallel_size": "tp",
        "pipeline_parallel_size": "pp",
        "max_model_len": "max_model_len",
        "kv_cache_dtype": "kv_cache_dtype",
        "max_num_seqs": "max_num_seqs",
        "max_num_batched_tokens": "max_num_batched_tokens",
        "block_size": "block_size",
        "enforce_eager": "enforce_eager",
    }
    args = {name: row[key] for name, key in names.items() if row.get(key) is not None}
    length = row["measured"].get("max_concurrency_len")
    if length and "max_model_len" not in args:
        args["max_model_len"] = length
    if row.get("dtype") in ("bfloat16", "float16", "float32"):
        args["dtype"] = row["dtype"]
    if args.get("kv_cache_dtype") not in (None, "auto") and args["kv_cache_dtype"] not in _KV_DTYPES:
        del args["kv_cache_dtype"]
    return args


_KV_DTYPES = ("fp8", "fp8_e4m3", "fp8_e5m2", "bfloat16", "float16", "fp8_ds_mla")


def table(results: list[Result], *, every: bool) -> str:
    """Markdown: what was compared, and a line for each launch that differs (or for all)."""
    agreeing = [result for result in results if result.agrees]
    inside = sum(result.difference == 0 for result in results)
    lines = [
        f"{len(results)} launches of models in the catalogue print both figures: {inside} agree within the rounding of "
        f"the printed GiB, {len(agreeing)} within 0.5 %, {len(results) - len(agreeing)} differ.",
        "",
        "| launch | model | vLLM | GPU, TP/PP | available GiB | tokens printed | predicted | why |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {result.id} | {result.model} | {result.version} | {result.gpu}, {result.parallel} | "
        f"{result.available_gib} | {result.measured:,} | {result.predicted:,} | {result.why} |"
        for result in results
        if every or not result.agrees
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--launches", type=Path, help="measured launches, one JSON object a line")
    parser.add_argument("--all", action="store_true", help="a line for every launch")
    parser.add_argument("--write", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args()
    path = options.launches or LAUNCHES
    results = [result for row in launches(path) if (result := predict(row)) is not None]
    text = table(results, every=options.all)
    if options.write:
        document = options.write.read_text(encoding="utf-8")
        before, rest = document.split(BEGIN)
        after = rest.split(END)[1]
        options.write.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    else:
        print(text)
    return int(any(not result.is_explained for result in results))


if __name__ == "__main__":
    sys.exit(main())
