"""Every command on every kind of wrong file: exit code 2, one clean line, no traceback, nothing half-written."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest

import hf_configs
from planner import strict_json
from planner.cli import cli
from planner.engine.args import engine_arg_names, find_flag, flag_of
from planner.errors import InputError, Reason, bug
from planner.model.config import MAX_LAYERS
from planner.request import answer, answer_lines
from planner.workload import Workload
from tests.command_line import run

LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
CONFIG: dict[str, Any] = json.loads(hf_configs.path(LLAMA).read_text(encoding="utf-8"))
TEXT = json.dumps(CONFIG)

WRONG: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "white space": (b" \n\t\n", "is empty"),
    "UTF-16": (TEXT.encode("utf-16"), "not UTF-8"),
    "byte-order mark": (b"\xef\xbb\xbf" + TEXT.encode(), "byte-order mark"),
    "Latin-1": (b'{"model_type": "\xe9"}', "not UTF-8"),
    "NaN": (b'{"hidden_size": NaN}', "NaN"),
    "1e999": (b'{"hidden_size": 1e999}', "too large"),
    "5,000 digits": (b'{"hidden_size": %s}' % (b"9" * 5000), "5000 digits"),
    "deep list": (b"[" * 100_000, "nested more than"),
    "deep object": (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "nested more than"),
    "list": (b"[]", "must hold a JSON object"),
    "null": (b"null", "must hold a JSON object"),
    "twice the same key": (b'{"hidden_size": 1, "hidden_size": 2}', "twice"),
    "cut short": (TEXT[:300].encode(), "not JSON"),
    "zeros": (b"\0" * 1000, "not JSON"),
    "a web page": (b"<!DOCTYPE html><p>404", "not JSON"),
}
"""Files that no command takes, and a word of why."""

CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "a million layers": ({"num_hidden_layers": 10**6}, "num_hidden_layers"),
    "a number in quotes": ({"num_hidden_layers": "32"}, "num_hidden_layers"),
    "Unicode digits": ({"vocab_size": "１２"}, "vocab_size"),
    "1e308": ({"hidden_size": 1e308}, "hidden_size"),
    "300 digits": ({"hidden_size": 10**300}, "hidden_size"),
    "negative": ({"vocab_size": -1}, "vocab_size"),
    "a fraction": ({"num_attention_heads": 32.5}, "num_attention_heads"),
    "a boolean": ({"num_hidden_layers": True}, "num_hidden_layers"),
    "an architecture to colour a terminal": ({"architectures": ["\x1b[31mred\ud800"]}, "architecture"),
    "rotary numbers in quotes": ({"rope_scaling": {"rope_type": "yarn", "factor": "4"}}, "factor"),
    "a negative rotary factor": ({"rope_scaling": {"rope_type": "yarn", "factor": -1e300}}, "factor"),
}
"""Valid JSON that describes no model: (what is changed in a real config, the key that the message names)."""

READERS: dict[str, Callable[[str], tuple[str, ...]]] = {
    "estimate": lambda file: ("estimate", file, "--gpu", "H100"),
    "fit": lambda file: ("fit", file, "--gpu", "H100", "-o", f"{file}.out"),
    "sweep": lambda file: ("sweep", file, "--gpu", "H100", "-o", f"{file}.csv"),
    "recommend": lambda file: ("recommend", file, "--gpu", "H100"),
    "prices": lambda file: ("recommend", LLAMA, "--gpu", "H100", "--prices", file),
    "commands": lambda file: ("commands", file, "-o", f"{file}.out"),
    "report": lambda file: ("report", file, "-o", f"{file}.html"),
    "explain-log": lambda file: ("explain-log", file),
}


def check_one_clean_line(outcome: tuple[int, str, str]) -> str:
    code, out, err = outcome
    assert code == 2
    assert out == ""
    assert err.startswith("vllm-fit: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable(), err
    return err


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file(reader: str, kind: str, tmp_path: Path, capsys: Any) -> None:
    content, why = WRONG[kind]
    file = tmp_path / "config.json"
    file.write_bytes(content)
    err = check_one_clean_line(run(capsys, *READERS[reader](str(file))))
    if reader != "explain-log":  # a log may be any text; this is no start of a vLLM
        assert str(file) in err
        assert why in err or (reader == "prices" and "object of cards" in err)
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("reader", ["estimate", "fit", "sweep"])
def test_a_wrong_config(reader: str, kind: str, tmp_path: Path, capsys: Any) -> None:
    changes, key = CONFIGS[kind]
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, **changes}))
    err = check_one_clean_line(run(capsys, *READERS[reader](str(file))))
    assert str(file) in err
    assert key in err
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "nowhere", "/dev/zero", "missing", "endless name"])
def test_what_is_no_file(reader: str, kind: str, tmp_path: Path, capsys: Any) -> None:
    path = tmp_path / "it.json"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind in ("loop", "nowhere", "/dev/zero"):
        path.symlink_to({"loop": "it.json", "nowhere": "gone.json"}.get(kind, kind))
    elif kind == "endless name":
        path = tmp_path / ("x" * 5000 + ".json")
    started = time.monotonic()
    check_one_clean_line(run(capsys, *READERS[reader](str(path))))
    assert time.monotonic() - started < 20


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can become a user without rights")
def test_a_file_without_permission(capsys: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        file = Path(folder, "config.json")
        file.write_text(TEXT)
        assert run(capsys, *READERS["estimate"](str(file)))[0] == 0
        file.chmod(0)
        os.seteuid(65534)
        try:
            err = check_one_clean_line(run(capsys, *READERS["estimate"](str(file))))
        finally:
            os.seteuid(0)
        assert err == f"vllm-fit: {file}: cannot be read (permission denied)\n"


@pytest.mark.parametrize("reader", READERS)
def test_a_name_that_acts_on_a_terminal(reader: str, tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "a\x1b[31m\nb\u202e.json"
    file.write_text(TEXT)
    check_one_clean_line(run(capsys, *READERS[reader](str(file))))


@pytest.mark.parametrize(
    "argument", ["served_model_name", "revision", "tokenizer", "download_dir", "quantization", "load_format"]
)
def test_text_that_acts_on_a_terminal(argument: str) -> None:
    with pytest.raises(InputError, match=argument):
        answer({"model": LLAMA, "gpu": "H100", argument: "a\x1b]0;b\x07"})


def test_messages_are_clean_whoever_writes_them() -> None:
    assert str(InputError("a\x1b[31m\nb")) == "a\\x1b[31m\\nb"
    assert Reason(code="x", message="one\r\ntwo\u202e").message == "one\\r\ntwo\\u202e"


# --- a batch ---------------------------------------------------------------------------------------------------------

GOOD = json.dumps({"id": "good", "model": LLAMA, "gpu": "H100"})
BAD_LINES = (
    "not JSON",
    "[]",
    '{"model": "x", "model": "y"}',
    '{"id": 7, "model": 8}',
    '{"id": "\\ud800", "model": "org/\\u001b[31m", "gpu": "H100"}',
    json.dumps({"model": LLAMA, "gpu": "H100", "tensor_parallel_size": "2"}),
    json.dumps({"model": LLAMA, "gpu": "H100", "max_model_len": 1e308}),
    json.dumps({"model": LLAMA, "gpu": ["H100"]}),
    json.dumps({"model": LLAMA, "gpu": "H100", "hf_overrides": {"num_hidden_layers": "3"}}),
    "[" * 100_000,
    "\udcff",
    '{"id": 1, "model": "' + "x" * (strict_json.MAX_BYTES + 5) + '"}',
)


def test_a_wrong_line_harms_no_other(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "requests.jsonl"
    lines = [line for bad in BAD_LINES for line in (bad, GOOD)]
    file.write_text("\n".join(lines), encoding="utf-8", errors="surrogateescape")
    code, out, err = run(capsys, "estimate", "--batch", str(file))
    answers = [json.loads(line) for line in out.splitlines()]
    assert (code, err) == (2, "")
    assert [one["status"] for one in answers] == ["error", "fits"] * len(BAD_LINES)
    assert all(one["id"] == "good" for one in answers[1::2])
    assert all(one["reasons"][0]["message"].isprintable() for one in answers[::2])
    assert out.isascii()


def test_a_fault_of_ours_harms_no_other_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(request: object) -> dict[str, object]:
        return {"status": 1 // 0, "request": request}

    monkeypatch.delenv("VLLM_FIT_DEBUG")
    monkeypatch.setattr("planner.request.answer", fails)
    (told,) = answer_lines([GOOD])
    assert told["status"] == "error"
    assert "ZeroDivisionError at test_bad_input.py" in told["reasons"][0]["message"]


def test_a_fault_of_ours_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def fails() -> None:
        raise KeyError("a\nb")

    monkeypatch.delenv("VLLM_FIT_DEBUG")
    monkeypatch.setattr("hf_configs.names", fails)
    assert "a fault of vllm-fit" in check_one_clean_line(run(capsys, "models"))


def test_a_developer_sees_it_raised() -> None:
    with pytest.raises(KeyError):
        bug(KeyError("x"))


# --- numbers --------------------------------------------------------------------------------------------------------


def _kind(name: str) -> str:
    flag = find_flag(flag_of(name))
    assert flag is not None
    return flag.kind


NUMBERS: dict[str, tuple[str, ...]] = {
    "": (
        "gpu_memory_gib",
        "gpu_memory_used_gib",
        *(name for name in sorted(engine_arg_names()) if _kind(name) in ("int", "float", "human_int")),
    ),
    "workload": tuple(field.name for field in fields(Workload)),
    "model": (
        *("parameters", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"),
        *("head_dim", "intermediate_size", "vocab_size", "max_position_embeddings"),
    ),
    "speculative_config": ("num_speculative_tokens",),
}
"""Every key of a request that takes a number, by the object that it stands in."""
AROUND: dict[str, dict[str, Any]] = {
    "": {},
    "workload": {"concurrency": 4, "input_len": 100, "output_len": 100},
    "model": {"parameters": "8B"},
    "speculative_config": {"method": "ngram"},
}
NO_NUMBERS = ("1e308", "-1e308", "1e999", "NaN", "-Infinity", "1" + "0" * 400, '"8"', '"NaN"', "true", "{}", '["8"]')


@pytest.mark.parametrize("inside", NUMBERS)
@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_where_one_belongs(inside: str, value: str) -> None:
    for key in NUMBERS[inside]:
        if (key, value) == ("parameters", '"8"'):
            continue  # "8B" is how people write it
        there = {**AROUND[inside], key: "HERE"}
        request = {"model": LLAMA, "gpu": "H100", **({inside: there} if inside else there)}
        (told,) = answer_lines([json.dumps(request).replace('"HERE"', value)])
        (reason,) = told["reasons"]
        assert told["status"] == "error", key
        assert reason["message"].isprintable()
        unreadable = ("NaN", "Infinity", "1e999", "digits")
        assert key in reason["message"] or any(word in reason["message"] for word in unreadable)


SMALL = ("HuggingFaceTB/SmolLM2-135M-Instruct", "--gpu", "L4")
WORDS = {
    "estimate": SMALL,
    "fit": SMALL,
    "recommend": SMALL,
    "validate": (SMALL[0], "--device", "cpu", "--dry-run"),
    "history": (),
    "gate": (),
    "ui": None,
}
"""What a command needs besides the option that is wrong; None where nothing could be tried without a server."""


def numeric_options() -> list[tuple[str, str]]:
    return [
        (name, option.opts[0])
        for name, command in cli.commands.items()
        for option in command.params
        if isinstance(option, click.Option)
        and isinstance(option.type, click.types.FloatParamType | click.types.IntParamType)
        if WORDS.get(name, ()) is not None
    ]


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e300", "9" * 30])
@pytest.mark.parametrize(("command", "option"), numeric_options())
def test_an_options_number_is_bounded(
    command: str, option: str, value: str, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    words = WORDS.get(command, SMALL)
    assert words is not None
    code, out, err = run(capsys, command, *words, option, value)
    if code == 2:
        check_one_clean_line((code, "", err))
    else:
        assert (code in (0, 1), err == "" or out != "") == (True, True), err


@pytest.mark.parametrize("command", ["fit", "recommend"])
@pytest.mark.parametrize("option", ["--request-rate", "--prefix-hit-rate", "--price-per-gpu-hour"])
def test_an_option_that_a_plan_cannot_heed_is_no_silence(command: str, option: str, capsys: Any) -> None:
    assert option in check_one_clean_line(run(capsys, command, *SMALL, option, "0.5"))


def test_a_goal_has_bounds(capsys: Any) -> None:
    for option, value in (("--gpus", "999999999999"), ("--concurrency", "inf"), ("--margin-gib", "nan")):
        assert option.strip("-")[:4] in check_one_clean_line(run(capsys, "fit", *SMALL, option, value))


# --- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ("estimate", "HUGE", "--gpu", "H100"),
        ("estimate", "--batch", "HUGE"),
        ("explain-log", "HUGE"),
        ("report", "HUGE", "-o", "out.html"),
        ("recommend", LLAMA, "--gpu", "H100", "--prices", "HUGE"),
        ("fit", "LAYERS", "--gpu", "H100", "--tensor-parallel-size", "1"),
    ],
    ids=lambda words: " ".join(words)[:20],
)
def test_time_and_memory_are_bounded(words: tuple[str, ...], tmp_path: Path) -> None:
    """20 s and 2 GiB, on 200 MB of one line of JSON and on the most layers that a config may have."""
    huge, layers = tmp_path / "huge.json", tmp_path / "config.json"
    with huge.open("wb") as file:
        file.write(b'{"a": [')
        for _ in range(200):
            file.write(b"1234567, " * 111_111)
        file.write(b"1]}")
    layers.write_text(json.dumps({**CONFIG, "num_hidden_layers": MAX_LAYERS}))
    given = [{"HUGE": str(huge), "LAYERS": str(layers)}.get(word, word) for word in words]
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30));"
        "from planner.cli import main; main(sys.argv[1:])"
    )
    begun = os.times()
    ended = subprocess.run(
        [sys.executable, "-c", limited, *given],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path.cwd()), "OPENBLAS_NUM_THREADS": "1"},
    )
    spent = os.times().children_user - begun.children_user
    assert ended.returncode in (1, 2), ended.stderr
    assert "Traceback" not in ended.stderr
    assert spent < 20


# --- found by fuzzing, kept -------------------------------------------------------------------------------------------

FOUND: dict[str, tuple[str, tuple[str, ...], Any, str]] = {
    "text looked for in itself": ("mistral-community/pixtral-12b", ("text_config",), None, "not a text model"),
    "unknown state dtype": ("Qwen/Qwen3.5-35B-A3B", ("text_config", "mamba_ssm_dtype"), "full", "unknown dtype"),
    "rotary positions below zero": (
        "deepseek-ai/DeepSeek-V3-0324",
        ("rope_scaling", "original_max_position_embeddings"),
        -1e308,
        "original_max_position_embeddings",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_in_a_config(name: str, tmp_path: Path) -> None:
    model, (*inside, key), value, words = FOUND[name]
    values = json.loads(hf_configs.path(model).read_text(encoding="utf-8"))
    target = values
    for section in inside:
        target = target[section]
    target[key] = value
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=words):
        answer({"model": str(tmp_path), "gpu": "H100"})


def test_an_image_smaller_than_its_patch(tmp_path: Path) -> None:
    """The tower's profile run cannot be described then; the estimate goes on without it."""
    values = json.loads(hf_configs.path("meta-llama/Llama-4-Scout-17B-16E-Instruct").read_text(encoding="utf-8"))
    values["vision_config"]["image_size"] = 3
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert answer({"model": str(tmp_path), "gpu": "H200", "tensor_parallel_size": 8})["status"] != "error"


def test_null_is_an_argument_not_given() -> None:
    request = {"model": LLAMA, "gpu": "H100"}
    assert answer({**request, "tensor_parallel_size": None, "gpu_memory_utilization": None}) == answer(request)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "[" * 10_000, '{"a": 1, "a": 2}'])
def test_json_in_a_flag_is_as_strict(value: str, capsys: Any) -> None:
    check_one_clean_line(run(capsys, "estimate", LLAMA, "--gpu", "H100", "--compilation-config", value))
