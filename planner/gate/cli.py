"""What `vllm-fit gate` does besides judging: output and exit code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from planner.gate.formats import render
from planner.gate.run import Options, gate

PASS, FAIL = 0, 1


def run_gate(paths: Sequence[Path], form: str, output: Path | None, options: Mapping[str, Any]) -> int:
    """0 when every launch passes or only warns, 1 when one fails."""
    outcomes = gate(paths or [Path()], Options(**options))
    _put(render(form, outcomes), output)
    return FAIL if any(outcome.fails for outcome in outcomes) else PASS


def print_schema(output: Path | None) -> int:
    """The JSON Schema of a policy."""
    from planner.gate.policy import SCHEMA

    _put(SCHEMA.read_text(encoding="utf-8"), output)
    return PASS


def _put(text: str, output: Path | None) -> None:
    if output is not None:
        from planner.files import write_text

        write_text(output, text)
    else:
        click.echo(text, nl=False)
