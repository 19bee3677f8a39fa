"""Each reader for a minute on files that are nearly right: launches, or one clear InputError, and nothing else.

The kinds of YAML share the minute of their reader.
VLLM_FIT_FUZZ_SECONDS sets another time for each, VLLM_FIT_FUZZ_SEED other mutations; a number's mutation is always the
same one. A failure names a file that holds the input.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.gate import policy, yaml_nodes
from planner.gate.launch import Launch
from planner.gate.readers import READERS, reader_of, yaml_file
from planner.gate.source import Lookup, Source

CORPUS = Path(__file__).parent / "corpus"
SECONDS = float(os.environ.get("VLLM_FIT_FUZZ_SECONDS", "60"))
SEED = os.environ.get("VLLM_FIT_FUZZ_SEED", "")
_SLOWEST_SECONDS = 20
"""Of the processor, for one file of some kB: far above what any takes, far below what an exponential one would."""
_MAX_TEXT = 20_000

TARGETS: Mapping[str, Sequence[str]] = {
    "shell": ("scripts/shell/*.sh", "scripts/slurm/*"),
    "python": ("scripts/python/*",),
    "dockerfile": ("scripts/docker/*",),
    "makefile": ("scripts/make/*",),
    "jenkins": ("yaml/ci/jenkins/*",),
    "systemd": ("scripts/systemd/*",),
    "plan": ("scripts/plans/*",),
    "yaml: charts": ("yaml/charts/*",),
    "yaml: kubernetes": ("yaml/kubernetes/*", "yaml/kserve/*"),
    "yaml: compose": ("yaml/compose/*.y*ml", "yaml/compose/base/*"),
    "yaml: ray serve": ("yaml/ray/**/*.yaml",),
    "yaml: serve --config": ("yaml/config/*", "scripts/shell/serve.yaml"),
    "yaml: pipelines": ("yaml/ci/**/*.y*ml", "yaml/other/*"),
    "policy": ("policy/vllm-fit.yaml", "scripts/vllm-fit.yaml", "yaml/vllm-fit.yaml"),
}
"""The files of the corpus that each target's begin as."""


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 300)
@pytest.mark.parametrize("target", TARGETS)
def test_any_file_gives_launches_or_one_clear_error(target, tmp_path):
    texts = _texts(target)
    check = _check_policy if target == "policy" else _check_launches
    kept = tmp_path / "input"
    seconds = SECONDS / sum(other.partition(":")[0] == target.partition(":")[0] for other in TARGETS)
    end = time.monotonic() + seconds
    number = launches = 0
    while time.monotonic() < end:
        number += 1
        path, text = _mutated(texts, random.Random(f"{SEED} {number}"))
        begin = time.process_time()
        try:
            launches += check(path, text, tmp_path)
            took = time.process_time() - begin
            assert took < _SLOWEST_SECONDS, f"took {took:.0f} s"
        except Exception as error:
            kept.write_text(text, encoding="utf-8", errors="surrogatepass")
            raise AssertionError(f"{type(error).__name__}: {error}; {path.name} number {number} is {kept}") from error
    assert launches > seconds, f"in {number} files"


def test_every_reader_and_every_kind_of_yaml_has_a_target():
    assert {reader.name for reader in READERS} == {name.partition(":")[0] for name in TARGETS} - {"policy"}
    kinds = [matches for matches, _ in yaml_file.KINDS]
    met = set()
    for target in TARGETS:
        for path, text in _texts(target).items() if target.startswith("yaml") else ():
            try:
                found = yaml_nodes.documents(text, path.name)
            except InputError:
                continue
            met |= {next((i for i, matches in enumerate(kinds) if matches(one)), -1) for one in found}
    assert met >= set(range(len(kinds)))


def _texts(target: str) -> dict[Path, str]:
    paths = sorted({path for pattern in TARGETS[target] for path in CORPUS.glob(pattern) if path.is_file()})
    return {path: path.read_bytes().decode("utf-8", "replace") for path in paths}


# --- what must hold ---------------------------------------------------------------------------------------------------


def _check_launches(path: Path, text: str, folder: Path) -> int:
    reader = reader_of(path)
    assert reader is not None
    source = Source(path=path, file=path.name, text=text)
    try:
        launches: list[Launch] = list(reader.read(source, Lookup(root=CORPUS)))
    except InputError as error:
        _check_sentence(str(error))
        return 0
    for launch in launches:
        assert 1 <= launch.line <= launch.end_line <= len(source.lines), (launch.line, launch.end_line)
        for said in (launch.problem, launch.refusal):
            _check_sentence(said or "")
        for word in launch.words:
            assert word.line >= 1
            assert word.file is not None or word.line <= len(source.lines)
    return len(launches)


def _check_policy(path: Path, text: str, folder: Path) -> int:
    file = folder / "vllm-fit.yaml"
    file.write_text(text, encoding="utf-8", newline="", errors="surrogatepass")
    try:
        policy.load(file).rules_for(file)
    except InputError as error:
        _check_sentence(str(error))
        return 0
    return 1


def _check_sentence(text: str) -> None:
    assert text.isprintable(), text
    assert len(text) < 2_000, text


# --- mutations --------------------------------------------------------------------------------------------------------

_SCRAPS = (
    *"vllm serve |$(|${|}|)|((|<<EOF\n|EOF\n|'|`|\\\n|&&|;|\n|\t|#|if true; then |fi\n|for x in |do\n|done\n".split(
        "|"
    ),
    *"case x in ~esac\n~f() {~[[~]]~$@~${A[@]}~A=(~A+=~${A:-~$((~docker run ~bash -c '~ssh h ~exec ~eval ".split("~"),
    *"source ~shift ~set -- ~--config x.yaml ~--speculative-config {~--x.y 1 ~FROM x\n~CMD [~ENTRYPOINT ".split("~"),
    *"ARG A\n~ENV A=$A$A\n~ExecStart=~Environment=~%i~$$~$(A)~A := ~A += $(A)\n~\tvllm serve $(A)\n~LLM(".split("~"),
    *"**~f'{~lambda: ~\ud7ff~\u202e~\x00~\x1b~\u00e9~null~1e999~|~\"~9999999999999999999~--------".split("~"),
    *"vllm/vllm-openai:v0.11.0~python -m vllm.entrypoints.openai.api_server~--model~--config~\ufeff~\r".split("~"),
    *"--tensor-parallel-size=~--max-model-len 99999999999999999999~${VAR:-${OTHER:-x}}~$(VAR)~$((1 +".split("~"),
    *"{{ .Values.x }}~&a~*a~<<: *a~>-~\\~[~]~{~: ~- ~nvidia.com/gpu: -1~count: 1e400~\u2028~\x7f".split("~"),
    *"~true~0x10~1_000~2026-01-01~import vllm\n~from vllm import *\n~sh '''~environment {".split("~"),
    '{"plan": 1, "request": {',
    "x" * 3000,
)

_Mutation = Callable[[str, random.Random, str], str]
"""(text, chance, another text) -> the text with one thing changed."""


def _insert(text: str, chance: random.Random, other: str) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + chance.choice(_SCRAPS) * chance.choice((1, 1, 1, 3, 40)) + text[at + chance.randint(0, 6) :]


def _cut(text: str, chance: random.Random, other: str) -> str:
    at = chance.randint(0, len(text))
    return text[:at] + text[at + chance.randint(1, 60) :]


def _splice(text: str, chance: random.Random, other: str) -> str:
    at, start = chance.randint(0, len(text)), chance.randint(0, len(other))
    return text[:at] + other[start : start + chance.randint(1, 200)] + text[at:]


def _repeat(text: str, chance: random.Random, other: str) -> str:
    at = chance.randint(0, len(text))
    end = chance.randint(at, len(text))
    return text[:end] + text[at:end] * chance.choice((1, 2, 30)) + text[end:]


def _by_line(change: Callable[[list[str], int, random.Random, Sequence[str]], None]) -> _Mutation:
    def changed(text: str, chance: random.Random, other: str) -> str:
        lines = text.split("\n")
        change(lines, chance.randrange(len(lines)), chance, other.split("\n"))
        return "\n".join(lines)

    return changed


def _drop(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    del lines[at : at + chance.randint(1, 4)]


def _double(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    lines[at:at] = lines[at : at + chance.randint(1, 4)] * chance.randint(1, 20)


def _swap(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    to = chance.randrange(len(lines))
    lines[at], lines[to] = lines[to], lines[at]


def _indent(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    lines[at] = " " * chance.randint(0, 12) + lines[at].lstrip()


def _borrow(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    begin = chance.randrange(len(other))
    lines[at:at] = other[begin : begin + chance.randint(1, 15)]


def _value(lines: list[str], at: int, chance: random.Random, other: Sequence[str]) -> None:
    head, mark, _ = lines[at].partition(chance.choice(":="))
    lines[at] = f"{head}{mark} {chance.choice(_SCRAPS)}"


_MUTATIONS: Sequence[_Mutation] = (
    *(_insert, _insert, _insert, _cut, _splice, _repeat),
    *map(_by_line, (_drop, _double, _swap, _indent, _borrow, _value)),
)


def _mutated(texts: Mapping[Path, str], chance: random.Random) -> tuple[Path, str]:
    path = chance.choice(list(texts))
    text = texts[path]
    for _ in range(chance.randint(1, 6)):
        text = chance.choice(_MUTATIONS)(text, chance, chance.choice(list(texts.values())))[:_MAX_TEXT]
    return path, text
