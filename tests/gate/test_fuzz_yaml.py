"""The YAML readers on files that are nearly right, for a minute: they give launches, or refuse in one line.

VLLM_FIT_FUZZ_SECONDS sets another time, VLLM_FIT_FUZZ_SEED other mutations. A failure names a file that holds the
input.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.gate.readers import reader_of
from planner.gate.source import Lookup, Source

CORPUS = Path(__file__).parent / "corpus"
SECONDS = float(os.environ.get("VLLM_FIT_FUZZ_SECONDS", "60"))
_SLOWEST_SECONDS = 20
"""For one file of a few kB: far above what any takes, far below what an exponential one would."""


_SCRAPS = (
    "vllm serve",
    "vllm/vllm-openai:v0.11.0",
    "python -m vllm.entrypoints.openai.api_server",
    "--model",
    "--config",
    "--tensor-parallel-size=",
    "--max-model-len 99999999999999999999",
    "${VAR:-${OTHER:-x}}",
    "$(VAR)",
    "$((1 +",
    "{{ .Values.x }}",
    "&a",
    "*a",
    "<<: *a",
    "|",
    ">-",
    "<<EOF",
    "EOF",
    "'",
    '"',
    "\\",
    "`",
    "[",
    "]",
    "{",
    "}",
    "(",
    ")",
    ": ",
    "- ",
    "#",
    "\t",
    "\r",
    "\ufeff",
    "\u2028",
    "é",
    "\x7f",
    "nvidia.com/gpu: -1",
    "count: 1e400",
    "null",
    "~",
    "true",
    "0x10",
    "1_000",
    "2026-01-01",
    "x" * 3000,
)

Mutation = Callable[[list[str], random.Random, Sequence[str]], None]


def _drop(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    at = chance.randrange(len(lines))
    del lines[at : at + chance.randint(1, 4)]


def _double(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    at = chance.randrange(len(lines))
    lines[at:at] = lines[at : at + chance.randint(1, 4)] * chance.randint(1, 20)


def _swap(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    one, other = chance.randrange(len(lines)), chance.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]


def _scrap(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    at = chance.randrange(len(lines))
    line = lines[at]
    place = chance.randint(0, len(line))
    lines[at] = line[:place] + chance.choice(_SCRAPS) + line[place + chance.randint(0, 6) :]


def _indent(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    at = chance.randrange(len(lines))
    lines[at] = " " * chance.randint(0, 12) + lines[at].lstrip()


def _splice(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    other = chance.choice(others).split("\n")
    begin = chance.randrange(len(other))
    at = chance.randint(0, len(lines))
    lines[at:at] = other[begin : begin + chance.randint(1, 15)]


def _value(lines: list[str], chance: random.Random, others: Sequence[str]) -> None:
    at = chance.randrange(len(lines))
    head, colon, _ = lines[at].partition(":")
    lines[at] = f"{head}{colon} {chance.choice(_SCRAPS)}"


_MUTATIONS: tuple[Mutation, ...] = (_drop, _double, _swap, _scrap, _scrap, _indent, _splice, _value)


def _mutated(seeds: Sequence[str], chance: random.Random) -> str:
    lines = chance.choice(seeds).split("\n")
    for _ in range(chance.randint(1, 6)):
        chance.choice(_MUTATIONS)(lines, chance, seeds)
        lines = lines[:2000] or [""]
    return "\n".join(lines)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "share"), [("any.yaml", 1), ("Jenkinsfile", 1 / 6)])
def test_any_file_gives_launches_or_one_line(name, share, tmp_path):
    chance = random.Random(os.environ.get("VLLM_FIT_FUZZ_SEED", ""))
    seeds = [
        path.read_text(encoding="utf-8") for path in sorted(CORPUS.rglob("*.y*ml" if name == "any.yaml" else name))
    ]
    kept = tmp_path / name
    end = time.monotonic() + SECONDS * share
    while time.monotonic() < end:
        text = _mutated(seeds, chance)
        begin = time.monotonic()
        try:
            _check(text, kept)
            took = time.monotonic() - begin
            assert took < _SLOWEST_SECONDS, f"took {took:.0f} s"
        except Exception as error:
            kept.write_text(text, encoding="utf-8", errors="surrogatepass")
            raise AssertionError(f"{type(error).__name__}: {error}; the input is {kept}") from error


def _check(text: str, path: Path) -> None:
    source = Source(path=path, file=path.name, text=text)
    reader = reader_of(source.path)
    assert reader is not None
    try:
        launches = list(reader.read(source, Lookup(root=path.parent)))
    except InputError as error:
        assert len(str(error).splitlines()) == 1, error  # noqa: PT017
        return
    count = text.count("\n") + 1
    for launch in launches:
        assert 1 <= launch.line <= launch.end_line <= count, (launch.line, launch.end_line, count)
        for said in (launch.problem, launch.refusal):
            assert said is None or len(said.splitlines()) == 1, said
