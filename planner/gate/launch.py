"""A vLLM launch as a deployment file writes it: what every reader gives, and what judge.py decides on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from planner.engine.defaults import Usage


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a word is used, and how it is written there."""

    text: str
    line: int


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word of a command line, and where it stands."""

    text: str
    """With every known variable replaced; an unknown one stays as written ("$TP", "$(MODEL)")."""
    line: int
    """1-based, in the file."""
    unknown: str | None = None
    """The first part of it that the file does not decide, as written."""
    file: str | None = None
    """Where it stands in another file than the launch: a --config file."""
    of_key: bool = False
    """Whether it is the value of a key of its own, behind which no other word can stand."""
    place: Place | None = None
    """Its place in the command, where `line` is that of the variable which holds it."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """One `vllm serve`, API server or LLM(...)."""

    file: str
    """As given on the command line, or below the folder given."""
    line: int
    """The first line of the command, or of the container or service that launches it; from 1."""
    end_line: int
    model: str | None = None
    args: Mapping[str, Any] = field(default_factory=dict)
    """Engine arguments under their Python names, as parse_flags has them; never a secret."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Only KEPT_ENVIRONMENT: what the launch depends on. Values of other variables are never kept."""
    gpu: str | None = None
    """The card, as the file names it."""
    gpus: int | None = None
    """How many cards the file gives to one engine, over all of its nodes."""
    whole_cluster: bool = False
    """Whether a Ray cluster has no other cards than these."""
    version: str | None = None
    """vLLM's, from the image's tag."""
    usage: Usage = "server"
    problem: str | None = None
    """Why this launch cannot be read wholly: one sentence. Its verdict is then unknown."""
    refusal: str | None = None
    """Why vLLM would not take the command line."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """Other keys of a request to the planner, of a plan file."""
    words: tuple[Word, ...] = ()
    """vLLM's arguments where they stand in the file: for the fix."""

    def with_(self, **changes: Any) -> Launch:
        """A copy with other fields."""
        return replace(self, **changes)


KEPT_ENVIRONMENT = frozenset(
    (
        "CUDA_VISIBLE_DEVICES",
        "HIP_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "ROCR_VISIBLE_DEVICES",
        "HF_HUB_OFFLINE",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN",
        "VLLM_ATTENTION_BACKEND",
        "VLLM_CPU_KVCACHE_SPACE",
        "VLLM_KV_CACHE_LAYOUT",
        "VLLM_MLA_DISABLE",
        "VLLM_USE_V1",
        "VLLM_USE_V2_MODEL_RUNNER",
    )
)
"""Variables that decide what a launch is."""


def least(*counts: int | None) -> int | None:
    """Of several counts of cards, those that are known; None where none is."""
    return min((count for count in counts if count is not None), default=None)


def visible_devices(environment: Mapping[str, str | None]) -> int | None:
    """How many cards CUDA_VISIBLE_DEVICES and its like leave; None where they say nothing."""
    for name in ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        value = environment.get(name)
        if value is None or value in ("all", "void", "none"):
            continue
        devices = [one.strip() for one in value.split(",") if one.strip()]
        # CUDA stops at the first that does not exist, as -1.
        return next((i for i, device in enumerate(devices) if device.startswith("-")), len(devices))
    return None
