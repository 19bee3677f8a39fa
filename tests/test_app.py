"""The what-if page, driven by Streamlit's AppTest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hf_configs
from app import inputs, serve, uploads
from app.solve import plan_file, solve
from app.state import State
from planner.engine.version import NEWEST
from planner.errors import InputError
from planner.planning.change import request_of
from planner.planning.outputs import FORMS
from planner.request import answer
from tests.app_page import checked, opened, query_of, said


def test_choose_a_model_make_it_not_fit_apply_the_plan() -> None:
    page = opened(model="Qwen/Qwen3-0.6B", gpu="A10")
    assert "fits on 1 x NVIDIA A10" in page.success[0].value
    numbers = answer({"model": "Qwen/Qwen3-0.6B", "gpu": "A10"})["kv_cache"]
    assert f"{numbers['tokens']:,} tokens" in page.success[0].value
    checked(page.selectbox(key="model").set_value("Qwen/Qwen3-14B").run())
    assert not page.success
    assert "does not fit" in said(page)
    checked(page.button(key="apply").click().run())
    assert "fits on 1 x NVIDIA A10" in page.success[0].value
    assert not page.error
    assert query_of(page)["model"].startswith("Qwen/Qwen3-14B")


def test_the_link_restores_the_state() -> None:
    page = opened(model="Qwen/Qwen3-0.6B", gpu="L4", cards="2", concurrency="3", max_model_len="8k", more="-tp 1")
    assert page.number_input(key="cards").value == 2
    assert page.number_input(key="concurrency").value == 3
    assert page.text_input(key="max_model_len").value == "8k"
    assert "8,000 tokens per request" in said(page)
    again = opened(**query_of(page))
    assert said(again) == said(page)


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("max_model_len", "lots", "lots"),
        ("max_num_seqs", "0", "at least 1"),
        ("gpu_memory_utilization", "7", "at most 1"),
        ("vllm_version", "banana", "banana"),
        ("tensor_parallel_size", "8", "these flags need 8 cards"),
        ("by", "guess", "must be one of"),
        ("by", "upload", "not part of a link"),
        ("by", "numbers", "number of parameters"),
        ("input_len", "-1", "whole number"),
        ("ttft_ms", "nan", "above 0"),
        ("engines", "3", "must divide"),
        ("model", "no such model", "no such file or folder"),
        ("gpu", "abacus", "unknown GPU"),
        ("cards", "many", "whole number"),
        ("more", "'", "more flags"),
        ("more", "--no-such-flag", "unknown flag"),
        ("more", "word", "not a flag"),
        ("more", "--model Qwen/Qwen3-8B", "--model has a field of its own"),
    ],
)
def test_what_makes_no_sense_is_a_sentence(name: str, value: str, sentence: str) -> None:
    page = opened(**{"model": "Qwen/Qwen3-0.6B", "gpu": "A10", name: value})
    assert sentence in said(page)


def test_a_line_for_a_checkpoint_that_must_be_made_says_so() -> None:
    page = opened(model="Qwen/Qwen3-0.6B", gpu="A10", what_if_quantization="awq")
    assert [block.value for block in page.code] == ["vllm serve Qwen/Qwen3-0.6B"]
    assert any("in awq in its place, which has to be made first" in one.value for one in page.caption)


def test_markup_from_outside_is_shown_as_text() -> None:
    page = opened(model="<script>alert(1)</script>", gpu="A10")
    assert "<script" not in said(page)
    assert "&lt;script" in said(page)


@pytest.mark.parametrize("name", inputs._QUANTIZATIONS[1:])
def test_a_quantization_that_is_offered_is_one_of_the_newest_vllms(name: str) -> None:
    told = answer({"model": "Qwen/Qwen3-30B-A3B", "gpu": "H100", "quantization": name})
    assert told["status"] == "fits"


def test_empty_flags_show_what_vllm_takes() -> None:
    page = opened(model="Qwen/Qwen3-0.6B", gpu="A10")
    engine = answer({"model": "Qwen/Qwen3-0.6B", "gpu": "A10"})["engine"]
    for name in ("max_num_seqs", "max_num_batched_tokens", "gpu_memory_utilization", "max_model_len"):
        assert page.text_input(key=name).placeholder == str(engine[name])


@pytest.mark.parametrize("gpu", ["A10", "H100", "RTX 4090"])
def test_a_plan_survives_the_way_through_the_state(gpu: str) -> None:
    """Applying a plan gives its request again, whatever flags are in it."""
    plan = solve(State(model="Qwen/Qwen3-32B", gpu=gpu, cards=2, concurrency=2)).plan
    request = request_of(plan.inputs)
    state = State(model="Qwen/Qwen3-32B", gpu=gpu, cards=2, concurrency=2).with_request(request)
    assert request == {"usage": "server", "vllm_version": str(NEWEST), **state.to_request()}
    assert State.read(state.to_query()) == state


def test_an_upload_is_data_and_limited() -> None:
    config = hf_configs.path("Qwen/Qwen3-0.6B").read_bytes()
    path = uploads.keep("../../evil.json", config)
    assert Path(path).name == "config.json"
    assert Path(path).read_bytes() == config
    assert solve(State(model=path, gpu="A10")).now["status"] == "fits"
    for bad in (b"[]", b"import os", json.dumps({"a": "b" * uploads.MAX_BYTES}).encode()):
        with pytest.raises(InputError):
            uploads.keep("bad.json", bad)


def test_an_uploaded_config_is_the_model_until_it_makes_no_sense() -> None:
    page = opened(model="Qwen/Qwen3-32B", gpu="A10", by="upload")
    config = hf_configs.path("Qwen/Qwen3-0.6B").read_bytes()
    checked(page.file_uploader[0].set_value(("config.json", config, "application/json")).run())
    assert "the uploaded config.json fits on 1 x NVIDIA A10" in page.success[0].value
    checked(page.file_uploader[0].set_value(("config.json", b"[]", "application/json")).run())
    assert "must hold a JSON object" in said(page)


def test_what_is_taken_along_of_an_upload_names_a_path_to_put_ones_own_in() -> None:
    page = opened(model="Qwen/Qwen3-32B", gpu="A10", by="upload")
    config = hf_configs.path("Qwen/Qwen3-14B").read_bytes()
    checked(page.file_uploader[0].set_value(("config.json", config, "application/json")).run())
    entered, plan = (block.value for block in page.code)
    assert {line.split(" --")[0] for line in (entered, plan)} == {"vllm serve /path/to/model"}
    state = State(model=uploads.keep("config.json", config), gpu="A10")
    kept = str(Path(state.model).parent)
    assert plan_file(state)["request"]["model"] == "/path/to/model/config.json"
    assert kept not in json.dumps(plan_file(state))
    checked(page.switch_page("views/commands.py").run())
    for form in FORMS:
        page.segmented_control(key="form").set_value(form)
        (text,) = (block.value for block in checked(page.run()).code)
        assert "/path/to/model" in text
        assert kept not in text


def test_the_server_is_for_this_machine_only() -> None:
    words = serve.command(8600)
    assert "--server.address=127.0.0.1" in words
    assert "--server.port=8600" in words
