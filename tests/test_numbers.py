"""A model known only by numbers: what is derived, what is assumed and said, what contradicts itself."""

from __future__ import annotations

import math
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given

from planner.errors import InputError
from planner.model.config import Config
from planner.model.families import build_model
from planner.model.numbers import TOLERANCE, config_of_numbers, parse_parameters
from planner.model.source import load_config

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "intermediate_size",
    "vocab_size",
)


def refused(numbers: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        config_of_numbers(numbers)
    assert str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"],
)
def test_all_numbers_of_a_llama_give_that_llama(name: str) -> None:
    real = load_config(name).config
    tied = real.bool("tie_word_embeddings")
    numbers: dict[str, Any] = {key: real.int(key) for key in SIZES} | {"tied": tied, "dtype": "bfloat16"}
    values, assumed = config_of_numbers(numbers)
    made, true = build_model(Config(values), "numbers"), build_model(real, name)
    assert made.parameters == true.parameters
    assert not [sentence for sentence in assumed if sentence.startswith(SIZES)]
    # The count instead of the MLP's width, and of the KV heads, says the same.
    for left_out in ("intermediate_size", "num_key_value_heads"):
        less = {key: value for key, value in numbers.items() if key != left_out} | {"parameters": true.parameters}
        values, assumed = config_of_numbers(less)
        assert values[left_out] == real.int(left_out)
        assert any(sentence.startswith(f"{left_out} = ") for sentence in assumed)


def test_a_parameter_count_alone_is_shaped_like_a_real_model() -> None:
    values, assumed = config_of_numbers({"parameters": "8B"})
    assert (values["hidden_size"], values["num_hidden_layers"], values["num_key_value_heads"]) == (4096, 32, 8)
    for key in SIZES:
        assert any(sentence.startswith(f"{key} = {values[key]} ") for sentence in assumed), key


def test_kv_heads_that_are_not_given_are_as_many_as_heads() -> None:
    """The largest KV cache that the model can have: nothing is promised that may not fit."""
    numbers = {"parameters": "8B", "hidden_size": 4096, "layers": 32, "heads": 32, "vocabulary": 128256}
    values, assumed = config_of_numbers(numbers)
    assert values["num_key_value_heads"] == 32
    assert any("num_key_value_heads = 32" in sentence for sentence in assumed)


@pytest.mark.parametrize(
    ("text", "count"),
    [("8B", 8 * 10**9), ("7.6b", 7_600_000_000), ("135M", 135 * 10**6), ("1.5 B", 1_500_000_000), ("2T", 2 * 10**12),
     ("500k", 500_000), ("8030261248", 8030261248), (8030261248, 8030261248), (8e9, 8 * 10**9)],
)  # fmt: skip
def test_parameter_counts_as_people_write_them(text: object, count: int) -> None:
    assert parse_parameters(text) == count


NOT_COUNTS = ["", "B", "8X", "-8B", "8BB", "1e9", "9" * 5000, True, None, [], 0, -1, 1e30, math.nan, math.inf, 10**400]


@pytest.mark.parametrize("count", NOT_COUNTS)
def test_parameter_counts_that_are_none(count: object) -> None:
    with pytest.raises(InputError, match="parameters"):
        parse_parameters(count)


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ({}, "too few numbers"),
        ({"hidden_size": 4096}, "too few numbers"),
        ({"parameters": "8B", "hiden_size": 4096}, "model.hiden_size: unknown key; did you mean hidden_size"),
        ({"parameters": "30B", "num_experts": 128}, "a mixture of experts needs its config.json"),
        ({"parameters": "8B", "layers": 3, "num_layers": 3}, "given twice"),
        ({"parameters": "8B", "hidden_size": "4096"}, 'model.hidden_size: must be a whole number from 1 to'),
        ({"parameters": "8B", "layers": True}, "is true"),
        ({"parameters": "8B", "layers": 10**9}, "from 1 to 2048"),
        ({"parameters": "8B", "tied": 1}, "must be true or false"),
        ({"parameters": "8B", "dtype": "fp7"}, "bfloat16, float16, float32"),
        ({"parameters": "8B", "dtype": ["float16"]}, "bfloat16, float16, float32"),
        ({"parameters": "8B", "kv_heads": 7}, "not a multiple of num_key_value_heads = 7"),
        ({"parameters": "8B", "hidden_size": 4096, "heads": 30}, "not a multiple of num_attention_heads = 30"),
        ({"parameters": "8B", "hidden_size": 4096, "head_dim": 96}, "not a multiple of head_dim = 96"),
        ({"parameters": "1B", "hidden_size": 8192, "layers": 80}, "embeddings and attention alone make 22.5B"),
        ({"parameters": "30B", "hidden_size": 2048, "layers": 48}, "mixture of experts"),
        (
            {"parameters": "70B", "hidden_size": 4096, "layers": 32, "intermediate_size": 14336},
            "has 8.84B parameters, 70B are given (within 2%)",
        ),
    ],
)  # fmt: skip
def test_what_is_refused(numbers: dict[str, Any], words: str) -> None:
    assert words in refused(numbers)


NUMBERS = st.fixed_dictionaries(
    {},
    optional={
        "parameters": st.integers(10**5, 10**13) | st.sampled_from(["1B", "8B", "70B"]),
        "hidden_size": st.integers(1, 2**16),
        "num_hidden_layers": st.integers(1, 200),
        "num_attention_heads": st.integers(1, 256),
        "num_key_value_heads": st.integers(1, 256),
        "head_dim": st.sampled_from([32, 64, 80, 128, 256]),
        "intermediate_size": st.integers(1, 2**18),
        "vocab_size": st.integers(1, 2**20),
    },
)


@given(numbers=NUMBERS)
def test_an_answer_keeps_what_was_given(numbers: dict[str, Any]) -> None:
    try:
        values, assumed = config_of_numbers(numbers)
    except InputError:
        return
    model = build_model(Config(values), "numbers")
    for key, value in numbers.items():
        if key == "parameters":
            assert abs(model.parameters - parse_parameters(value)) <= TOLERANCE * model.parameters * 1.05
        else:
            assert values[key] == value
            assert not any(sentence.startswith(f"{key} =") for sentence in assumed)


KEYS = st.sampled_from([*SIZES, "parameters", "name", "dtype", "tied", "heads"]) | st.text(max_size=5)
VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.integers(), max_size=2)
)


@given(numbers=st.dictionaries(KEYS, VALUES))
def test_anything_else_is_an_input_error(numbers: dict[str, Any]) -> None:
    try:
        config_of_numbers(numbers)
    except InputError as error:
        message = str(error)
    else:
        return
    assert message.isprintable()
