"""Several answers side by side: one row for each fact, and where they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reports.memory import memory_of, text
from reports.view import answer_verdict, kv_facts

_ENGINE = (
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "dtype",
    "quantization",
    "max_num_seqs",
    "max_num_batched_tokens",
    "gpu_memory_utilization",
    "vllm_version",
)
Answered = tuple[str, Mapping[str, Any], Mapping[str, Any] | None, str]
"""(name, answer, speed, command)"""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One fact of each answer; empty where it has none."""

    name: str
    values: tuple[str, ...]

    @property
    def odd(self) -> tuple[bool, ...]:
        """Which differ from the first."""
        return tuple(value != self.values[0] for value in self.values)

    @property
    def differs(self) -> bool:
        """Whether any plan's value is not the first one's."""
        return any(self.odd)


def compared_rows(answers: Sequence[Answered]) -> tuple[Row, ...]:
    """The facts that any of the answers has, each after the one that it follows in its own answer."""
    columns = [_facts(*answered) for answered in answers]
    names: list[str] = []
    for column in columns:
        place = 0
        for name in column:
            if name not in names:
                names.insert(place, name)
            place = names.index(name) + 1
    return tuple(Row(name=name, values=tuple(column.get(name, "") for column in columns)) for name in names)


def _facts(_name: str, answer: Mapping[str, Any], speed: Mapping[str, Any] | None, command: str) -> dict[str, str]:
    engine, memory = answer["engine"] or {}, memory_of(answer)
    facts = {"verdict": answer_verdict(answer), "model": text(answer["model"]["name"])}
    facts["GPU"] = text(answer["gpu"]["name"])
    facts |= {name: text(engine[name]) for name in _ENGINE if engine.get(name) is not None}
    facts |= dict(kv_facts(answer))
    if memory is not None:
        facts |= {f"{part.name}, GiB per GPU": part.gib for part in memory.segments}
    if speed is not None:
        facts["Output tokens/s, one engine"] = f"{float(speed['output_tokens_per_s']):,.0f}"
        facts["TTFT, ms"] = f"{float(speed['ttft_ms']):,.0f}"
        facts["ITL (TPOT), ms"] = f"{float(speed['tpot_ms']):,.1f}"
    return {**facts, "command": text(command)}
