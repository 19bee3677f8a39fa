"""What a script has set when it comes to a launch: a value, or something that its text does not decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from planner.gate.launch import Launch
from planner.gate.readers.shell import read
from planner.gate.source import Lookup, Source


def _read(text: str) -> list[Launch]:
    path = Path("serve.sh")
    return list(read(Source(path=path, file="serve.sh", text=f"{text}\n"), Lookup(root=path.parent)))


@pytest.mark.parametrize(
    "text",
    [
        "((TP++))",
        "((TP = N * 2))",
        "(( --TP, N = 1 ))",
        "let TP=4",
        "let N=1 TP+=1",
        "read -r TP < file",
        "mapfile -t TP < file",
        'printf -v TP "%d" 2',
        "while getopts t: TP; do :; done; getopts t: TP",
        "unset TP",
    ],
)
def test_what_a_command_sets_is_not_what_it_was_before(text):
    (launch,) = _read(f"TP=1\n{text}\nvllm serve a/b --tensor-parallel-size $TP")
    assert launch.problem is not None
    assert "$TP" in launch.problem


@pytest.mark.parametrize(
    "text", ["((N++))", "((TP == 2))", "((TP <= 2)) && N=1", "let N=TP", "{ N=2; }", "printf -v N x"]
)
def test_what_it_does_not_set_stays(text):
    (launch,) = _read(f"TP=1\n{text}\nvllm serve a/b --tensor-parallel-size $TP")
    assert (launch.problem, launch.args) == (None, {"tensor_parallel_size": 1})


def test_the_counter_of_a_loop_is_left_open():
    (launch,) = _read("for ((TP = 1; TP < 3; TP++)); do\n  vllm serve a/b -tp $TP\ndone")
    assert launch.problem is not None


@pytest.mark.parametrize(("kind", "size"), [("local", 1), ("local -i", 1), ("declare", 1), ("export", 4), ("", 4)])
def test_what_a_function_declares_is_its_own(kind, size):
    inside, after = _read(f"TP=1\nf() {{\n  {kind} TP=4\n  vllm serve a/b -tp $TP\n}}\nf\nvllm serve a/b -tp $TP")
    assert inside.args == {"tensor_parallel_size": 4}
    assert after.args == {"tensor_parallel_size": size}


def test_a_group_sets_what_stands_in_it():
    (launch,) = _read("{ TP=2; N=1; }\nvllm serve a/b -tp $TP")
    assert launch.args == {"tensor_parallel_size": 2}


def test_lines_of_text_put_together_end_with_the_file():
    """A variable with lines of its own, evaluated: what is found there stands where eval does, not below the file."""
    text = 'A="x\n\n\n\n"\neval "true $A\n$A\nvllm serve Qwen/Qwen3-8B"\n'
    (launch,) = _read(text)
    assert launch.model == "Qwen/Qwen3-8B"
    last = text.count("\n") + 2  # what follows the last line's end, twice
    assert launch.line <= launch.end_line <= last
    assert all(word.line <= last for word in launch.words)
