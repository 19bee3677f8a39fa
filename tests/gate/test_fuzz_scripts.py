"""Each reader on the corpus with parts cut, exchanged and added: launches or one clear InputError, nothing else."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.gate.launch import Launch
from planner.gate.readers import reader_of
from planner.gate.source import Lookup, Source

CORPUS = Path(__file__).parent / "corpus" / "scripts"
SECONDS_A_READER = 10
LONGEST_SECONDS = 5.0
"""For one file, on a busy machine."""
_FOLDERS = ("shell", "slurm", "docker", "make", "systemd", "python", "plans")
_PIECES = (
    *"vllm serve |$(|${|}|)|((|<<EOF\n|EOF\n|'|`|\\\n|&&|;|\n|\t|#|if true; then |fi\n|for x in |do\n|done\n".split(
        "|"
    ),
    *"case x in ~esac\n~f() {~[[~]]~$@~${A[@]}~A=(~A+=~${A:-~$((~docker run ~bash -c '~ssh h ~exec ~eval ".split("~"),
    *"source ~shift ~set -- ~--config x.yaml ~--speculative-config {~--x.y 1 ~FROM x\n~CMD [~ENTRYPOINT ".split("~"),
    *"ARG A\n~ENV A=$A$A\n~ExecStart=~Environment=~%i~$$~$(A)~A := ~A += $(A)\n~\tvllm serve $(A)\n~LLM(".split("~"),
    *"**~f'{~lambda: ~\ud7ff~\u202e~\x00~\x1b~\u00e9~null~1e999~|~\"~9999999999999999999~--------".split("~"),
    '{"plan": 1, "request": {',
)


def _mutated(text: str, other: str, chance: random.Random) -> str:
    for _ in range(chance.randint(1, 6)):
        at = chance.randint(0, len(text))
        kind = chance.random()
        if kind < 0.45:
            text = text[:at] + chance.choice(_PIECES) * chance.choice((1, 1, 1, 3, 40)) + text[at:]
        elif kind < 0.7:
            text = text[:at] + text[at + chance.randint(1, 60) :]
        elif kind < 0.9:
            start = chance.randint(0, len(other))
            text = text[:at] + other[start : start + chance.randint(1, 200)] + text[at:]
        else:
            end = chance.randint(at, len(text))
            text = text[:end] + text[at:end] * chance.choice((1, 2, 30)) + text[end:]
        text = text[:20_000]
    return text


def _read(source: Source, lookup: Lookup) -> tuple[list[Launch], str]:
    reader = reader_of(source.path)
    assert reader is not None
    try:
        return list(reader.read(source, lookup)), ""
    except InputError as error:
        return [], str(error)


@pytest.mark.slow
@pytest.mark.timeout(90)
@pytest.mark.parametrize("folder", _FOLDERS)
def test_mutated_files_give_launches_or_a_clear_error(folder):
    seeds = {path: path.read_bytes().decode("utf-8", "replace") for path in sorted((CORPUS / folder).iterdir())}
    texts = list(seeds.values())
    lookup = Lookup(root=CORPUS)
    began = time.monotonic()
    number = read = 0
    while time.monotonic() - began < SECONDS_A_READER:
        number += 1
        chance = random.Random(number)
        path = chance.choice(list(seeds))
        text = _mutated(seeds[path], chance.choice(texts), chance)
        source = Source(path=path, file=path.name, text=text)
        start = time.process_time()
        launches, message = _read(source, lookup)
        assert message.isprintable(), text
        for launch in launches:
            read += 1
            assert 1 <= launch.line <= launch.end_line, text
            assert launch.line <= len(source.lines) or launch.file != path.name, text
            assert all(word.line >= 1 for word in launch.words), text
        assert time.process_time() - start < LONGEST_SECONDS, f"seed {number}: {text!r}"
    assert read > 100, f"of {number} files"
