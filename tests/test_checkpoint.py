"""What the headers of safetensors files say, and what is said of damaged ones."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

import hf_configs
from planner.errors import InputError
from planner.model.checkpoint import LARGEST_HEADER, Stored, local_facts
from planner.request import answer

INDEX = "model.safetensors.index.json"


def file_of(header: Any, data: int = 0, length: int | None = None) -> bytes:
    """A safetensors file with this header, or these bytes as one, and so much data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(data)


def tensor(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        local_facts(folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_bytes_and_parameters_by_dtype(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "w": tensor("BF16", [4, 8], 0, 64),
        "packed": tensor("U8", [10], 64, 74),
        "norm": tensor("BF16", [3], 74, 80),
        "scalar": tensor("F32", [], 80, 84),
        "empty": tensor("F32", [0, 7], 84, 84),
        "odd nibbles": tensor("F4", [3], 84, 86),
    }
    (tmp_path / "model.safetensors").write_bytes(file_of(header, 86))
    facts = local_facts(tmp_path)
    assert facts is not None
    assert facts.by_dtype == {
        "BF16": Stored(tensors=2, parameters=35, bytes=70),
        "F32": Stored(tensors=2, parameters=1, bytes=4),
        "F4": Stored(tensors=1, parameters=3, bytes=2),
        "U8": Stored(tensors=1, parameters=10, bytes=10),
    }
    assert (facts.total_bytes, facts.parameters, facts.tensors) == (86, 49, 6)
    assert facts.names == ("w", "packed", "norm", "scalar", "empty", "odd nibbles")
    assert facts.complete


def test_a_file_written_by_safetensors_itself(tmp_path: Path) -> None:
    numpy = pytest.importorskip("numpy")
    save_file = pytest.importorskip("safetensors.numpy").save_file
    arrays = {"a": numpy.zeros((5, 7), numpy.float16), "b": numpy.zeros(3, numpy.int64)}
    save_file(arrays, tmp_path / "model.safetensors", metadata={"format": "np"})
    facts = local_facts(tmp_path)
    assert facts is not None
    assert facts.total_bytes == sum(array.nbytes for array in arrays.values())
    assert set(facts.names) == {"a", "b"}


def test_the_index_decides_which_files_count(tmp_path: Path) -> None:
    one, two = file_of({"a": tensor("I8", [4], 0, 4)}, 4), file_of({"b": tensor("I8", [6], 0, 6)}, 6)
    (tmp_path / "model-1.safetensors").write_bytes(one)
    (tmp_path / "model-2.safetensors").write_bytes(two)
    (tmp_path / "consolidated.safetensors").write_bytes(two)
    facts = local_facts(tmp_path)
    assert facts is not None
    assert facts.total_bytes == 10, "without an index: all but Mistral's second copy"
    weight_map = {"a": "model-1.safetensors"}
    (tmp_path / INDEX).write_text(json.dumps({"metadata": {"total_size": 4}, "weight_map": weight_map}))
    facts = local_facts(tmp_path)
    assert facts is not None
    assert (facts.files, facts.total_bytes) == (("model-1.safetensors",), 4)


def test_a_download_under_way(tmp_path: Path) -> None:
    assert local_facts(tmp_path) is None
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}))
    assert local_facts(tmp_path) is None, "an index alone"
    (tmp_path / "1.safetensors").write_bytes(file_of({"a": tensor("I8", [4], 0, 4)}, 4))
    facts = local_facts(tmp_path)
    assert facts is not None
    assert (facts.missing_files, facts.complete) == (("2.safetensors",), False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "only 0 bytes"),
        (b"\0" * 7, "only 7 bytes"),
        (file_of(b"", length=0), "is empty"),
        (file_of({}, length=LARGEST_HEADER + 1), "claims 100000001 bytes"),
        (b"\xff" * 64, "claims 18446744073709551615 bytes"),
        (file_of({}, length=5000), "cut off"),
        (file_of(b"<html>"), "not JSON"),
        (file_of(b"[]"), "must hold a JSON object"),
        (file_of({"a": 3}), '"a" wrongly'),
        (file_of({"a": {}}), '"a" wrongly'),
        (file_of({"\x1b[2J": {}}), r"\x1b[2J"),
        (file_of({"a": tensor("I8", [4], 0, 4)}, 3), '"a" wrongly'),
        (file_of({"a": tensor("I8", [4], 4, 0)}, 4), '"a" wrongly'),
        (file_of({"a": tensor("I8", [-4], 0, 4)}, 4), '"a" wrongly'),
        (file_of({"a": tensor("I8", [2**50, 2**50], 0, 4)}, 4), '"a" wrongly'),
        (file_of({"a": tensor("BF16", [4], 0, 4)}, 4), '"a" wrongly'),
        (file_of({"a": {**tensor("I8", [4], 0, 4), "shape": ["4"]}}, 4), '"a" wrongly'),
        (file_of({"a": {**tensor("I8", [4], 0, 4), "data_offsets": [0, 4, 8]}}, 4), '"a" wrongly'),
        (file_of({"a": {**tensor("I8", [4], 0, 4), "data_offsets": [False, 4]}}, 4), '"a" wrongly'),
        (file_of({"a": {**tensor("I8", [4], 0, 4), "dtype": 8}}, 4), '"a" wrongly'),
        (file_of({"a": tensor("I8", [4], 0, 4)}, 400), "describes 4 bytes of weights, the file holds 400"),
    ],
)
def test_damaged_files_are_one_clear_line(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    message = refused(tmp_path)
    assert message.startswith(str(path))
    assert words in message
    assert "download" in message


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ("{}", "no weight_map"),
        ('{"weight_map": []}', "no weight_map"),
        ("nothing", "not JSON"),
        ('{"weight_map": {"a": "../../etc/passwd.safetensors"}}', "not a safetensors file of the folder"),
        ('{"weight_map": {"a": "/x.safetensors"}}', "not a safetensors file of the folder"),
        ('{"weight_map": {"a": 3}}', "not a safetensors file of the folder"),
        ('{"weight_map": {"a": ["x.safetensors"]}}', "not a safetensors file of the folder"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "not a safetensors file of the folder"),
    ],
)
def test_indexes_that_are_refused(tmp_path: Path, index: str, words: str) -> None:
    (tmp_path / "x.safetensors").write_bytes(file_of({}))
    (tmp_path / INDEX).write_text(index)
    assert words in refused(tmp_path)


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    assert "cannot be read" in refused(tmp_path / "absent")
    (tmp_path / "model.safetensors").mkdir()
    assert "is a folder" in refused(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["BF16", "I8"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=80) | JSON.map(file_of))
def test_any_bytes_are_facts_or_an_input_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    message = message_of(lambda: local_facts(tmp_path))
    assert message.isprintable()


def message_of(call: Callable[[], object]) -> str:
    try:
        call()
    except InputError as error:
        return str(error)
    return ""


def test_files_that_disagree_with_their_config_are_told(tmp_path: Path) -> None:
    model = "Qwen/Qwen3-0.6B"
    (tmp_path / "config.json").write_bytes(hf_configs.path(model).read_bytes())
    weights = answer({"model": model, "gpu": "L4"})["model"]["parameters"]

    def warnings(parameters: int, **more: str) -> list[str]:
        header = {"w": tensor("BF16", [parameters], 0, 2 * parameters)}
        with (tmp_path / "model.safetensors").open("wb") as file:
            file.write(file_of(header))
            file.truncate(file.tell() + 2 * parameters)
        said: list[str] = answer({"model": str(tmp_path), "gpu": "L4", **more})["warnings"]
        return [warning for warning in said if "disagree" in warning]

    assert not warnings(weights)
    assert len(warnings(weights // 2)) == 1
    assert not warnings(weights, quantization="fp8")
    assert not warnings(weights, what_if_quantization="awq"), "that checkpoint is another one, yet to be made"
