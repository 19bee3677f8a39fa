"""Real files with parts of them exchanged for anything: answered, or one clean line; never a fault of ours.

`make fuzz` does the same for as long as one likes, with more changes at once.
"""

import json
import os
from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hf_configs
from planner.engine.args import engine_arg_names, flag_of, parse_flags
from planner.errors import InputError
from planner.logs import explain
from planner.logs.text import decode
from planner.planning.outputs import FORMS, launch_of_plan, write
from planner.request import REQUEST_KEYS, answer

MANY = int(os.environ.get("FUZZ_EXAMPLES", "0"))
thorough = settings(deadline=None, max_examples=MANY or 250, suppress_health_check=list(HealthCheck))

LOGS = sorted((Path(__file__).parent / "logs").glob("*.log"))
GONE = "\0gone"
"""Stands for a key that is taken away."""
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 7, 64, 100, 10**6, 10**9, 2**31, 2**53, 2**63, 10**30, 10**300),
    *(1.5, -0.5, 1e308, -1e308, 5e-324, float("inf")),
    *(
        "",
        "0",
        "12",
        "auto",
        "fp8",
        "bfloat16",
        "full_attention",
        "\x1b[31mred",
        "\u202e",
        "\ud800",
        "１２",
        "x" * 5000,
    ),
    *([], [None], [1], [1, 2, 3], ["a"], [[]], [{}], ["full_attention"] * 3, [0] * 1000, {}, {"a": 1}, {"": None}),
)
ODD_VALUES = st.sampled_from(ODD) | st.just(GONE)


@cache
def catalogue(name: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(hf_configs.path(name).read_text(encoding="utf-8"))
    return values


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything inside a JSON value; of a long list, to its beginning."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else enumerate(value[:4]) if isinstance(value, list) else ()
    for key, item in list(inside)[:100]:
        yield from places(item, (*path, key))


def exchange(value: Any, path: tuple[Any, ...], new: Any) -> None:
    for key in path[:-1]:
        value = value[key]
    if new != GONE:
        value[path[-1]] = new
    elif isinstance(value, dict):
        value.pop(path[-1], None)
    else:
        del value[path[-1] :]


@st.composite
def changed_configs(draw: st.DrawFn) -> dict[str, Any]:
    values = deepcopy(catalogue(draw(st.sampled_from(hf_configs.names()))))
    for _ in range(draw(st.integers(1, 3))):
        known = list(places(values))
        if known:
            exchange(values, draw(st.sampled_from(known)), deepcopy(draw(ODD_VALUES)))
    return values


def check_clean(error: InputError) -> None:
    assert str(error).isprintable()
    assert len(str(error)) <= 4000


def check_answer(request: Mapping[str, Any]) -> None:
    try:
        found = answer(request)
    except InputError as error:
        check_clean(error)
    else:
        json.dumps(found, allow_nan=False)
        assert all("\x1b" not in text for text in (*(r["message"] for r in found["reasons"]), *found["warnings"]))


REQUESTS = st.fixed_dictionaries(
    {"gpu": st.sampled_from(["L4", "H100", "B200", "MI300X", "cpu"])},
    optional={
        "tensor_parallel_size": st.sampled_from([2, 8]),
        "pipeline_parallel_size": st.just(2),
        "kv_cache_dtype": st.just("fp8"),
        "quantization": st.sampled_from(["fp8", "awq", "bitsandbytes"]),
        "what_if_quantization": st.sampled_from(["awq", "nvfp4", "fp8"]),
        "vllm_version": st.sampled_from(["0.9.2", "0.11.0", "0.25.0"]),
        "workload": st.just({"concurrency": 8}),
        "speculative_config": st.sampled_from([{"method": "mtp", "num_speculative_tokens": 1}]),
        "enable_lora": st.just(True),
    },
)


@thorough
@given(changed_configs(), REQUESTS)
def test_a_changed_config(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any], request_: Any) -> None:
    file = tmp_path_factory.getbasetemp() / "config.json"
    file.write_text(json.dumps(values))
    check_answer({**request_, "model": str(file)})


@thorough
@given(
    st.sampled_from(["meta-llama/Llama-3.1-8B-Instruct", "openai/gpt-oss-20b", "Qwen/Qwen2.5-VL-7B-Instruct"]),
    st.dictionaries(st.sampled_from([*engine_arg_names(), *REQUEST_KEYS]), st.sampled_from(ODD), max_size=2),
    st.dictionaries(
        st.sampled_from(["max_model_len", "hf_overrides", "speculative_config", "compilation_config", "workload"]),
        st.sampled_from(ODD)
        | st.dictionaries(
            st.sampled_from(["method", "model", "mode", "concurrency", "input_len", "a"]), st.sampled_from(ODD)
        ),
        max_size=1,
    ),
)
def test_any_request(model: str, args: dict[str, Any], more: dict[str, Any]) -> None:
    request = {"model": model, "gpu": "H100", **args, **more}
    check_answer({name: value for name, value in request.items() if name not in ("ask_vllm", "id")})


FLAGS = sorted(flag_of(name) for name in engine_arg_names() if name not in ("ask_vllm",))
WORDS = st.one_of(
    st.sampled_from(FLAGS),
    st.sampled_from(FLAGS).map(lambda flag: f"{flag}=1"),
    st.sampled_from(["-tp", "-O3", "--", "-", "--compilation-config.mode", "--a.b.c", "{}", '{"a":', "8k", "1e5"]),
    st.text(max_size=12),
    st.sampled_from([json.dumps(value) for value in ODD]),
)


@thorough
@given(st.lists(WORDS, max_size=8))
def test_any_serve_line(words: list[str]) -> None:
    try:
        args, _ = parse_flags(words)
    except InputError as error:
        check_clean(error)
    else:
        assert parse_flags(args.to_flags())[0] == args


@thorough
@given(st.data())
def test_a_changed_log(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(LOGS)).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        start = data.draw(st.integers(0, max(0, len(content) - 1)))
        length = data.draw(st.sampled_from([0, 1, 5, 80, 3000]))
        content[start : start + length] = data.draw(
            st.binary(max_size=8)
            | st.sampled_from([b"\x1b[31m", b"9" * 400, b"\n", b"'", b"{", b"1e308", b"-1", b"nan"])
        )
    try:
        explain(decode(bytes(content)), overrides={"gpu": "H100"})
    except InputError as error:
        check_clean(error)


PLAN: dict[str, Any] = {
    "plan": 1,
    "met": True,
    "engines": 2,
    "goal": {"gpus_per_node": 8},
    "request": {"model": "meta-llama/Llama-3.1-8B-Instruct", "gpu": "H100", "tensor_parallel_size": 2},
}


@thorough
@given(st.data())
def test_a_changed_plan(data: st.DataObject) -> None:
    plan = deepcopy(PLAN)
    exchange(plan, data.draw(st.sampled_from(list(places(plan)))), deepcopy(data.draw(ODD_VALUES)))
    try:
        launch = launch_of_plan(plan, "plan.json")
    except InputError as error:
        check_clean(error)
        return
    for form in FORMS:
        try:
            assert "\x1b" not in write(launch, form)
        except InputError as error:  # compose, for several nodes
            check_clean(error)
