"""A command line becomes launches: through wrappers (env, docker run, srun …) down to `vllm serve` and its arguments.

Readers of shell and of YAML both end here. Nothing is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from planner.gate.launch import KEPT_ENVIRONMENT, Launch, Word
from planner.gate.source import Lookup, Source


@dataclass(frozen=True, kw_only=True)
class Context:
    """What is known around a command."""

    source: Source
    lookup: Lookup
    line: int
    """Where the launch begins: of the command, or of the container or service around it."""
    end_line: int
    environment: Mapping[str, str | None] = field(default_factory=dict)
    """What the command inherits; None for a variable that is set to something the file does not say."""
    image: str | None = None
    gpu: str | None = None
    gpus: int | None = None

    def with_(self, **changes: Any) -> Context:
        return replace(self, **changes)


def launches_of(words: Sequence[Word], context: Context) -> list[Launch]:
    """The vLLM launches that a command makes; none for any other command."""
    raise NotImplementedError


def launch_of_image(words: Sequence[Word], context: Context) -> list[Launch]:
    """The launch of a container that only adds arguments (`args:`, compose `command:`) to the image's entry point."""
    raise NotImplementedError


def version_of_image(image: str) -> str | None:
    """vLLM's version from an image's tag ("vllm/vllm-openai:v0.11.0-x86_64" -> "0.11.0"); None where it says none."""
    tag = image.partition("@")[0].rpartition(":")[2]
    found = re.match(r"v?(\d+\.\d+(?:\.\d+)?)(?=$|[-._+a-z])", tag)
    return found[1] if found else None


def kept(environment: Mapping[str, str | None]) -> dict[str, str]:
    """The variables that matter to a launch."""
    return {name: value for name, value in environment.items() if name in KEPT_ENVIRONMENT and value is not None}
