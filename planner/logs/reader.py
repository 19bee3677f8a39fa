"""A log -> what it says: version, model, engine arguments, figures, the stage it reached.

What is looked for stands in planner/logs/wordings.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from planner.engine.args import engine_arg_names
from planner.engine.defaults import Usage
from planner.logs.pyrepr import read_dict, read_keywords
from planner.logs.text import Log, normalised
from planner.logs.wordings import BACKENDS, FIGURES, STAGES, TEXTS
from planner.text import printable

_CHOOSE: dict[str, Callable[[list[tuple[float, int]]], tuple[float, int]]] = {
    "available_kv_gib": min,
    "kv_cache_tokens": min,
    "num_gpu_blocks": min,
    "max_concurrency": min,
    "est_max_model_len": min,
    "error_available_kv_gib": min,
    "model_loading_gib": max,
    "consumed_gib": max,
    "activation_peak_gib": max,
    "activation_and_graphs_gib": max,
    "non_torch_gib": max,
    "cudagraph_gib": max,
    "cudagraph_estimate_gib": max,
    "free_gib_on_start": min,
}
"""Of several ranks, the one that decides: vLLM takes the smallest cache. Of other figures, the last printed."""

_MARKS = (
    (1, "vLLM API server version"),
    (1, "vLLM server version"),
    (2, "non-default args: {"),
    (2, "args: Namespace("),
    (3, "Initializing a V"),
    (3, "Initializing an LLM engine"),
)
"""What a launch begins with, in order: a container that is restarted prints them again."""


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One printed number."""

    name: str
    value: float
    line: int
    process: str | None = None
    ranks: int = 1
    """How many times it was printed (by several ranks)."""

    def to_dict(self) -> dict[str, Any]:
        """As an entry of the JSON answer's `figures`, in the unit that the log prints."""
        return {"value": self.value, "line": self.line, "process": self.process, "printed": self.ranks}


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a log says about its last launch."""

    version: str | None = None
    engine: str | None = None
    """V0 or V1."""
    model: str | None = None
    architecture: str | None = None
    gpu_names: tuple[str, ...] = ()
    backend: str | None = None
    usage: Usage | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    """As given on the command line: `non-default args`, or the Namespace of 0.6 to 0.8."""
    args_are_complete: bool = False
    """Whether a line of arguments was printed at all."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """As vLLM resolved them: `Initializing … with config`."""
    unread: tuple[str, ...] = ()
    """Arguments whose values are printed in a way that cannot be read back."""
    figures: Mapping[str, Figure] = field(default_factory=dict)
    stage: str | None = None
    launches: int = 1
    """How many launches the log holds; the facts are the last one's."""

    def value(self, name: str) -> float | None:
        """A figure's value, in the unit that the log prints; None where the log does not have it."""
        figure = self.figures.get(name)
        return None if figure is None else figure.value

    @property
    def stage_words(self) -> str | None:
        """How far the start came, in words; None where the log does not tell."""
        return next((words for code, _, words in STAGES if code == self.stage), None)

    @property
    def empty(self) -> bool:
        """Whether nothing in the text looks like a log of vLLM."""
        return not (self.version or self.model or self.figures or self.stage)

    def to_dict(self) -> dict[str, Any]:
        """As `log` of the JSON answer."""
        return {
            "vllm_version": self.version,
            "engine": self.engine,
            "model": self.model,
            "architecture": self.architecture,
            "gpu": self.gpu_names[0] if self.gpu_names else None,
            "attention_backend": self.backend,
            "usage": self.usage,
            "stage": self.stage,
            "launches": self.launches,
            "args": dict(self.args),
            "unread_args": list(self.unread),
            "figures": {name: figure.to_dict() for name, figure in self.figures.items()},
        }


def read(text: str) -> tuple[Facts, Log]:
    """The facts of the last launch in a log, and that launch's part of it."""
    whole = Log(normalised(text))
    start, launches = _last_launch(whole)
    log = Log(whole.text[start:], whole.line_number(start)) if start else whole
    args, unread, complete = _arguments(log)
    resolved = _resolved(log)
    found = _texts(log)
    facts = Facts(
        version=_first(found, "version"),
        engine=_first(found, "engine"),
        model=_model_name(args, resolved, found),
        architecture=_first(found, "architecture"),
        gpu_names=tuple(name.replace("_", " ") for name in found.get("gpu", ())),
        backend=_backend(_first(found, "backend")),
        usage=_usage(log, args, complete),
        args=args,
        args_are_complete=complete,
        resolved=resolved,
        unread=tuple(unread),
        figures=_figures(log),
        stage=stage_at(log),
        launches=launches,
    )
    return facts, log


def stage_at(log: Log, end: int | None = None) -> str | None:
    """The stage that the log has reached, at its end or at a position."""
    return next((code for code, literal, _ in STAGES if log.text.find(literal, 0, end) >= 0), None)


# --- the last launch -----------------------------------------------------------------------------------------------


def _last_launch(log: Log) -> tuple[int, int]:
    """(where the last launch begins, how many there are)."""
    marks = sorted((position, stage) for stage, literal in _MARKS for position in log.positions(literal))
    start, launches, previous = 0, 1, 0
    seen: set[tuple[int, str | None]] = set()
    for position, stage in marks:
        key = stage, log.process(position)
        again = key in seen and (stage < 3 or _ended(log, previous, position))
        if again:
            start, launches, seen = log.text.rfind("\n", 0, position) + 1, launches + 1, set()
        seen.add(key)
        previous = position
    return start, launches


def _ended(log: Log, start: int, end: int) -> bool:
    """Whether a launch came to an end between two lines: several engines of one launch print the same first line."""
    return any(log.text.find(literal, start, end) >= 0 for literal in ("KV cache size: ", "# GPU blocks: ", "Error: "))


# --- arguments -----------------------------------------------------------------------------------------------------

_ARGS_WINDOW = 256 << 10

_NAMESPACE_DEFAULTS: dict[str, Any] = {
    "max_num_seqs": 256,
    "gpu_memory_utilization": 0.9,
    "swap_space": 4,
    "cpu_offload_gb": 0,
    "tensor_parallel_size": 1,
    "pipeline_parallel_size": 1,
    "data_parallel_size": 1,
    "block_size": 16,
    "max_loras": 1,
    "max_lora_rank": 16,
    "max_logprobs": 20,
    "num_scheduler_steps": 1,
    "max_seq_len_to_capture": 8192,
    "load_format": "auto",
    "seed": 0,
}
"""What a Namespace of 0.6 to 0.8 holds though nobody gave it; None, False, "auto" and empty values besides."""


def _arguments(log: Log) -> tuple[dict[str, Any], list[str], bool]:
    """(the arguments as given, those that could not be read, whether they were printed)."""
    for literal, read_at, is_namespace in (
        ("non-default args: {", read_dict, False),
        ("args: Namespace(", read_keywords, True),
    ):
        positions = list(log.positions(literal))
        if not positions:
            continue
        opening = positions[0] + len(literal) - 1
        window = log.text[opening : opening + _ARGS_WINDOW]
        values, unread = read_at(window, 0) if not is_namespace else read_keywords(window, 1, ")")
        if is_namespace:
            values = {name: value for name, value in values.items() if _given(name, value)}
        return _safe(values), [printable(name, 60) for name in unread], True
    return {}, [], False


def _given(name: str, value: Any) -> bool:
    if value is None or value is False or value in ("auto", "", [], {}) or name not in engine_arg_names():
        return False
    return name not in _NAMESPACE_DEFAULTS or value != _NAMESPACE_DEFAULTS[name]


def _resolved(log: Log) -> dict[str, Any]:
    position = next(log.positions("LLM engine (v"), None)
    if position is None:
        return {}
    at = log.text.find("with config: ", position, position + 200)
    if at < 0:
        return {}
    window = log.text[at + len("with config: ") :][:_ARGS_WINDOW]
    return _safe(read_keywords(window, 0)[0])


def _safe(values: dict[str, Any]) -> dict[str, Any]:
    """Strings of a log are not to reach a terminal as they are."""
    return {printable(name, 100): _safe_value(value) for name, value in values.items()}


def _safe_value(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value, 2000)
    if isinstance(value, list):
        return [_safe_value(item) for item in value]
    if isinstance(value, dict):
        return {printable(key, 200): _safe_value(item) for key, item in value.items()}
    return value


# --- figures and texts ---------------------------------------------------------------------------------------------


def _figures(log: Log) -> dict[str, Figure]:
    seen: dict[str, list[tuple[float, int]]] = {}
    for pattern in FIGURES:
        for hit in log.hits(pattern.literal, pattern.regex):
            for name, text in hit.groups().items():
                value = _number(text)
                if value is not None:
                    seen.setdefault(name, []).append((value, hit.position))
    if "available_kv_bytes" in seen:
        in_gib = [(value / 2**30, position) for value, position in seen.pop("available_kv_bytes")]
        seen.setdefault("available_kv_gib", in_gib)
    return {name: _chosen(log, name, values) for name, values in sorted(seen.items())}


def _chosen(log: Log, name: str, values: list[tuple[float, int]]) -> Figure:
    choose = _CHOOSE.get(name)
    value, position = choose(values) if choose else max(values, key=lambda pair: pair[1])
    return Figure(
        name=name,
        value=value,
        line=log.line_number(position),
        process=log.process(position),
        ranks=len(values),
    )


def _number(text: str) -> float | None:
    try:
        value = float(text.replace(",", ""))
    except ValueError:
        return None
    return value if abs(value) < 1e15 else None


def _texts(log: Log) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, pattern in TEXTS:
        hit = log.first(pattern.literal, pattern.regex)
        if hit is not None:
            found.setdefault(name, []).append(printable(hit.match["x"].strip(), 300))
    return found


def _first(found: Mapping[str, list[str]], name: str) -> str | None:
    return next(iter(found.get(name, ())), None)


def _model_name(args: Mapping[str, Any], resolved: Mapping[str, Any], found: Mapping[str, list[str]]) -> str | None:
    for name in (args.get("model"), args.get("model_tag"), resolved.get("model"), _first(found, "model")):
        if isinstance(name, str) and name.strip():
            return name.strip()
    return None


def _backend(name: str | None) -> str | None:
    return None if name is None else BACKENDS.get(name.lower(), name)


_SERVER: tuple[str, ...] = (
    "vLLM API server version",
    "vLLM server version",
    "(APIServer",
    "Application startup complete",
    "args: Namespace(",
    "█  model ",
    "api_server.py:",
)


def _usage(log: Log, args: Mapping[str, Any], complete: bool) -> Usage | None:
    """Whether `vllm serve` was launched or the LLM class, whose defaults differ."""
    usage: Usage | None = None
    if any(literal in log.text for literal in _SERVER) or "model_tag" in args:
        usage = "server"
    elif complete or "llm.py:" in log.text or "Processed prompts" in log.text:
        usage = "offline"
    return usage
