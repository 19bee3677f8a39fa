"""Scripts, programs and units that mean harm: an answer or a clear error in bounded time, and never a crash."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from planner.errors import InputError
from planner.gate.launch import Launch
from planner.gate.readers import reader_of
from planner.gate.source import Lookup, Source

_SECONDS = 5.0


def _many(line: str, count: int) -> str:
    return "".join(line.replace("@", str(i)).replace("%", str(i + 1)) for i in range(count))


HOSTILE: dict[str, tuple[str, str]] = {
    "variables that double": ("a.sh", "A=vllm\n" + "A=$A$A\n" * 200 + "vllm serve $A\n"),
    "arrays that double": ("a.sh", "A=(vllm)\n" + 'A+=("${A[@]}")\n' * 60 + 'vllm serve "${A[@]}"\n'),
    "a variable that is added to itself": ("a.sh", "A=vllm\n" + "A+=$A\n" * 20_000 + "vllm serve $A\n"),
    "many ways through, an array empty or not there": (
        "a.sh",
        "if [ $X = y ]; then A=(); fi\n" + _many("if [ $X@ = y ]; then A@=1; fi\n", 9) + 'vllm serve x "${A[@]}"\n',
    ),
    "open substitutions": ("a.sh", "vllm serve " + "$(" * 20_000),
    "open quotes": ("a.sh", "vllm serve x " + '"' * 100_001),
    "open expansions": ("a.sh", "vllm serve " + "${A:-" * 5_000),
    "open branches": ("a.sh", "if a; then " * 5_000 + "vllm serve x"),
    "negations": ("a.sh", "! " * 100_000 + "vllm serve x"),
    "parentheses": ("a.sh", "(" * 50_000 + "vllm serve"),
    "a pipeline": ("a.sh", "a | " * 50_000 + "vllm serve x"),
    "many ways through": ("a.sh", _many('if [ "$X@" = y ]; then A@=1; else A@=2; fi\n', 300) + "vllm serve x\n"),
    "functions that double": ("a.sh", _many("f@() { f%; f%; }\n", 40) + "f40() { vllm serve x; }\nf0\n"),
    "a function that calls itself": ("a.sh", "f() { f; f; vllm serve x; }\n" + "f\n" * 50),
    "loops in loops": ("a.sh", "for a in 1 2 3 4 5 6 7 8 9; do " * 10 + "vllm serve $a; " + "done; " * 10),
    "wrappers in wrappers": ("a.sh", "docker run " * 60 + "vllm serve x\n" + "env bash -c " * 60 + "'vllm serve x'\n"),
    "a script within scripts": ("a.sh", 'eval "' * 30 + "vllm serve x"),
    "here-documents": ("a.sh", "bash <<A\nvllm\n" * 3_000),
    "many words": ("a.sh", "vllm serve " + _many("--x@ ", 30_000)),
    "a long line": ("a.sh", "# vllm\n" + "x" * 900_000),
    "continued lines": ("a.sh", "\\\n" * 100_000 + "vllm serve x"),
    "itself as a source": ("a.sh", "source a.sh\nvllm serve x\n"),
    "brackets in a program": ("a.py", "from vllm import LLM\nx=" + "[" * 5_000),
    "signs in a program": ("a.py", "from vllm import LLM\nLLM(model=" + "-" * 3_000 + "1)"),
    "text that doubles": ("a.py", 'from vllm import LLM\na0="x"\n' + _many("a%=a@+a@\n", 60) + "LLM(model=a60)"),
    "lists that double": ("a.py", "from vllm import LLM\na0=[1]\n" + _many("a%=[a@,a@]\n", 40) + "LLM('x', seed=a40)"),
    "numbers that double": ("a.py", "from vllm import LLM\na0=1\n" + _many("a%=a@+a@\n", 60) + "LLM('x', seed=a28)"),
    "sums in sums": ("a.py", "from vllm import LLM\nLLM('x', seed=" + "(1+" * 50 + "1" + ")" * 50 + ")"),
    "a command that is added to": ("a.py", "a = ['vllm', 'serve', 'x']\n" + "a += ['--seed', '1']\n" * 20_000),
    "text for a shell that doubles": ("a.py", "a0='vllm serve '\n" + _many("a%=a@+a@\n", 60) + "run(a59)"),
    "names in a circle": ("a.py", "from vllm import LLM\na=b\nb=a\nLLM(model=a)"),
    "powers": ("a.py", 'from vllm import LLM\nLLM(model="a", seed=10**10**10, max_model_len=9**9**9)'),
    "many calls": ("a.py", "from vllm import LLM\n" + 'LLM(model="a")\n' * 10_000),
    "variables of make": ("Makefile", _many("A@ = $(A%)$(A%)\n", 3_000) + "x:\n\tvllm serve $(A0)\n"),
    "a variable of make in itself": ("Makefile", "A = $(A) $(A)\nx:\n\tvllm serve $(A)\n"),
    "ENV that doubles": ("Dockerfile", "FROM a\nENV A=vllm\n" + "ENV A=$A$A\n" * 60 + "CMD vllm serve $A\n"),
    "many stages": (
        "Dockerfile",
        "FROM a AS a0\n" + _many("FROM a@ AS a%\nENV B@=vllm\n", 1_000) + "CMD vllm serve x\n",
    ),
    "many settings": ("a.service", "[Service]\n" + "Environment=A=1\n" * 20_000 + "ExecStart=vllm serve x\n"),
    "many commands of ssh": ("a.service", "[Service]\nExecStart=docker run " + "ssh h " * 700 + "vllm serve x\n"),
    "a long setting": ("a.service", "[Service]\nExecStart=vllm serve x \\\n" + "--seed 1 \\\n" * 20_000),
    "strokes in a Jenkinsfile": ("Jenkinsfile", "node { sh '" + "\\" * 101 + "vllm\n"),
    "open texts in a Jenkinsfile": ("Jenkinsfile", "vllm " + "sh ''' \\" * 20_000 + "sh '\n" * 20_000),
    "images in a Jenkinsfile": ("Jenkinsfile", "image" + " " * 100_000 + "image '" + "vllm" * 100_000),
    "white space in a Makefile": ("Makefile", "x:\n\tvllm serve x\n" + " " * 300_000),
    "a long name of a card": ("a.yaml", f"commands: [vllm serve x]\nresources: {{gpu: a{'-' * 20_000}}}\n"),
    "a deep plan": ("a.json", '{"plan":1,"request":' + '{"a":' * 100_000),
    "a long number": ("a.json", '{"plan":1,"request":{"model":"x","max_model_len":' + "9" * 100_000 + "}}"),
}


def _read(name: str, text: str, folder: Path) -> list[Launch]:
    path = folder / name
    path.write_text(text)
    reader = reader_of(path)
    assert reader is not None
    return list(reader.read(Source(path=path, file=name, text=text), Lookup(root=folder)))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", HOSTILE)
def test_time_is_bounded_and_errors_are_clear(kind, tmp_path):
    name, text = HOSTILE[kind]
    start = time.process_time()
    try:
        launches = _read(name, text, tmp_path)
    except InputError as error:
        launches = []
        message = str(error)
        assert message.startswith(name)
        assert message.isprintable()
        assert len(message) < 300
    assert time.process_time() - start < _SECONDS
    assert len(launches) <= 20_000
    for launch in launches:
        assert len(launch.model or "") <= 1 << 17
