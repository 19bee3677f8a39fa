"""Engine arguments: read from a command line as vLLM's own parser reads them, checked, printed again."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from planner.engine.args import EngineArgs, engine_arg_names, find_flag, human_int, parse_flags, unknown_to
from planner.engine.version import parse_version
from planner.errors import InputError

ROOT = Path(__file__).resolve().parents[1]


def parsed(line: str) -> dict[str, object]:
    return dict(parse_flags(shlex.split(line))[0])


def test_flags_under_all_their_spellings():
    assert parsed("-tp 2 --max-model-len 8k --kv_cache_dtype=fp8 --enforce-eager --no-enable-prefix-caching") == {
        "tensor_parallel_size": 2,
        "max_model_len": 8000,
        "kv_cache_dtype": "fp8",
        "enforce_eager": True,
        "enable_prefix_caching": False,
    }


def test_dotted_flags_build_the_nested_config():
    assert parsed("--compilation-config.cudagraph_mode FULL -cc.max_cudagraph_capture_size=64 -O1") == {
        "compilation_config": {"cudagraph_mode": "FULL", "max_cudagraph_capture_size": 64},
        "optimization_level": 1,
    }


def test_json_values_and_server_flags():
    line = """--port 9000 --speculative-config '{"method": "ngram", "num_speculative_tokens": 4}' model-name"""
    args, rest = parse_flags(shlex.split(line))
    assert dict(args) == {"speculative_config": {"method": "ngram", "num_speculative_tokens": 4}}
    assert rest == ["model-name"]


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("--no-such-flag 3", "no-such-flag"),
        ("--tensor-parallel-size two", "two"),
        ("--tensor-parallel-size", "expected one argument"),
        ("--max-model-len 1.5", "max-model-len"),
        ("--hf-overrides {bad", "JSON"),
        ("--kv-cache-dtype fp9", "fp9"),
        ("--max-model-len -7", "max_model_len"),
        ("--gpu-memory-utilization 1.5", "gpu_memory_utilization"),
        (f"--max-model-len {'9' * 400}k", "too large"),
    ],
)
def test_bad_flags_are_one_clear_line(line: str, word: str):
    with pytest.raises(InputError, match=word) as caught:
        parse_flags(shlex.split(line))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "value"), [("8192", 8192), ("8k", 8000), ("8K", 8192), ("25.6k", 25600), ("auto", -1)]
)
def test_human_readable_integers(text: str, value: int):
    assert human_int(text) == value


def test_a_number_in_quotes_is_not_a_number():
    with pytest.raises(InputError, match="tensor_parallel_size"):
        EngineArgs({"tensor_parallel_size": "2"})
    with pytest.raises(InputError, match="tensor_parallel_size"):
        EngineArgs({"tensor_parallel_size": True})


def test_unknown_argument_names_the_nearest():
    with pytest.raises(InputError, match="did you mean tensor_parallel_size"):
        EngineArgs({"tensor_paralel_size": 2})


VALUES = st.fixed_dictionaries(
    {},
    optional={
        "tensor_parallel_size": st.integers(1, 64),
        "max_model_len": st.integers(1, 10**7),
        "gpu_memory_utilization": st.floats(0.1, 1.0),
        "kv_cache_dtype": st.sampled_from(["auto", "fp8", "bfloat16"]),
        "enforce_eager": st.just(True),
        "enable_prefix_caching": st.booleans(),
        "hf_overrides": st.dictionaries(st.text("abc_", min_size=1), st.integers()),
        "served_model_name": st.lists(st.text("abc", min_size=1), min_size=1, max_size=2),
    },
)


@given(VALUES)
def test_a_serve_line_reads_back_as_it_was(values: dict[str, object]):
    command = EngineArgs(values).serve_command("org/name")
    words = shlex.split(command)
    assert words[:3] == ["vllm", "serve", "org/name"]
    args, rest = parse_flags(words[3:])
    assert (dict(args), rest) == (values, [])


def test_the_table_holds_vllms_own_arguments():
    assert {"tensor_parallel_size", "kv_cache_memory_bytes", "speculative_config"} <= engine_arg_names()


def test_the_servers_flags_have_types_of_their_own():
    kinds = {"--host": "str", "--port": "int", "--api-key": "str", "--ssl-keyfile": "str", "--lora-modules": "json"}
    found = {word: find_flag(word) for word in kinds}
    assert {word: flag.kind for word, flag in found.items() if flag is not None} == kinds


@pytest.mark.slow
def test_the_table_is_what_the_installed_vllm_declares(tmp_path: Path):
    pytest.importorskip("vllm", reason="no vLLM is installed")
    made = tmp_path / "engine_args.json"
    subprocess.run([sys.executable, str(ROOT / "tools" / "make_engine_args.py"), str(made)], check=True)
    table = json.loads((ROOT / "planner" / "engine" / "data" / "engine_args.json").read_text())
    found = json.loads(made.read_text())
    if found["vllm_version"] != table["vllm_version"]:
        pytest.skip(f"vLLM {found['vllm_version']} is installed, the table is of {table['vllm_version']}")
    assert found == table


def test_the_two_tables_of_flags_agree() -> None:
    """One is of one version's own parser; the other, read off the sources of many, has the same flags there."""
    data = ROOT / "planner" / "engine" / "data"
    table, others = (json.loads((data / f"{name}.json").read_text()) for name in ("engine_args", "flag_versions"))
    version = parse_version(table["vllm_version"])
    assert [name for name in table["engine"] if unknown_to(name, version)] == []
    assert [name for name in others["more"] if not unknown_to(name, version)] == []
