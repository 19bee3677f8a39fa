"""What a team asks of every launch (vllm-fit.yaml), for one path."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

OnDoubt = Literal["pass", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Rules:
    """The rules for one file. None: no such rule."""

    gpu: str | None = None
    """The card where the file names none."""
    gpus: int | None = None
    """How many, where the file says none."""
    vllm_version: str | None = None
    """Where the image's tag says none."""
    min_concurrency: float | None = None
    """Requests at once that the KV cache must hold, of min_context or else max_model_len tokens."""
    min_context: int | None = None
    """Tokens that max_model_len must allow."""
    min_headroom_gib: float | None = None
    """KV cache per GPU that must be left beyond what is asked."""
    too_close_to_call: OnDoubt = "warn"
    allowed_gpus: tuple[str, ...] | None = None
    allowed_quantizations: tuple[str, ...] | None = None
    """ "none" is an unquantized checkpoint."""
    allowed_versions: tuple[str, ...] | None = None
    """ "0.12.0" or a range, ">=0.11,<0.14"."""
    input_len: int | None = None
    output_len: int | None = None
    concurrency: int | None = None
    """The workload that the limits below are for."""
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    unknown: Literal["fail", "warn"] = "fail"
    ignored: str | None = None
    """The reason why failures here only warn, while it has not expired."""
