"""What a person has entered, as text: in the URL, in Streamlit's session, and as a request."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from planner.engine.args import EngineArgs, parse_flags
from planner.errors import InputError
from planner.request import REQUEST_KEYS
from planner.text import shown

ENGINE_FLAGS = (
    "max_model_len",
    "tensor_parallel_size",
    "kv_cache_dtype",
    "quantization",
    "gpu_memory_utilization",
    "max_num_seqs",
    "max_num_batched_tokens",
)
"""The engine arguments with a field of their own; every other one goes to `more`."""


@dataclass(frozen=True, kw_only=True)
class State:
    """The inputs; an empty text leaves the matter to vLLM."""

    model: str = "Qwen/Qwen3-32B"
    gpu: str = "NVIDIA H100 SXM5 80GB"
    cards: int = 1
    concurrency: int = 1
    max_model_len: str = ""
    tensor_parallel_size: str = ""
    kv_cache_dtype: str = ""
    quantization: str = ""
    gpu_memory_utilization: str = ""
    max_num_seqs: str = ""
    max_num_batched_tokens: str = ""
    vllm_version: str = ""
    what_if_quantization: str = ""
    more: str = ""
    """Further flags of `vllm serve`, as one would type them."""

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> State:
        """From a URL or a session; InputError where a number is none. Unknown keys are left out."""
        known: dict[str, Any] = {}
        for field in fields(cls):
            if field.name in values:
                value = values[field.name]
                known[field.name] = _count(field.name, value) if field.type == "int" else str(value or "").strip()
        return cls(**known)

    @classmethod
    def of_request(cls, request: Mapping[str, Any], cards: int, concurrency: int) -> State:
        """The inputs that make this request: a plan's flags, each in its field."""
        texts = {name: str(request[name]) for name in ("model", "gpu") if isinstance(request.get(name), str)}
        for name in (*ENGINE_FLAGS, "vllm_version", "what_if_quantization"):
            texts[name] = str(request[name]) if request.get(name) is not None else ""
        own = (*REQUEST_KEYS, *ENGINE_FLAGS)
        rest = EngineArgs({name: value for name, value in request.items() if name not in own})
        return cls(**texts, cards=cards, concurrency=concurrency, more=shlex.join(rest.to_flags()))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def to_query(self) -> dict[str, str]:
        """The values that differ from the defaults, for the URL."""
        default = asdict(State())
        values = {key: str(value) for key, value in asdict(self).items() if value != default[key]}
        return {**values, "model": self.model, "gpu": self.gpu}

    def to_request(self) -> dict[str, Any]:
        """As planner.request.prepare takes it; the flags are read as `vllm serve` reads them."""
        words = [_word(name, getattr(self, name)) for name in ENGINE_FLAGS if getattr(self, name)]
        args, positional = parse_flags([*words, *self._more_words()])
        if positional:
            raise InputError(f"more flags: {shown(positional[0])} is not a flag of `vllm serve`")
        request: dict[str, Any] = {**args, "model": self.model, "gpu": self.gpu}
        for key in ("vllm_version", "what_if_quantization"):
            if getattr(self, key):
                request[key] = getattr(self, key)
        return request

    def _more_words(self) -> list[str]:
        try:
            return shlex.split(self.more)
        except ValueError as error:
            raise InputError(f"more flags: {error}") from None


def _word(name: str, value: str) -> str:
    return f"--{name.replace('_', '-')}={value}"


def _count(name: str, value: object) -> int:
    text = str(value).strip()
    if not (text.isdecimal() and text.isascii() and 1 <= len(text) <= 6) or not int(text):
        raise InputError(f"{name} = {shown(value)}: must be a whole number from 1 to 999999")
    return int(text)
