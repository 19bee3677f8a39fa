"""Configs from the Hub: huggingface_hub's real client against a stand-in for the Hub on this machine."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from planner.model import hub as hub_module
from tests.command_line import without_rights
from tests.hub_stand_in import COMMIT, TOKEN, Hub, ask

CONFIG = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 512}
QUANT = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8"}}
UNREACHABLE = "http://127.0.0.1:9"  # the discard port, where nothing listens


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def safetensors(tensors: dict[str, tuple[str, list[int], int]]) -> bytes:
    header, end = {}, 0
    for name, (dtype, shape, size) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = as_json(header)
    return struct.pack("<Q", len(text)) + text + bytes(end)


WEIGHTS = {
    "one.safetensors": safetensors({"a": ("BF16", [4, 8], 64), "scale": ("F32", [], 4)}),
    "two.safetensors": safetensors({"b": ("F8_E4M3", [16], 16)}),
    "model.safetensors.index.json": as_json(
        {"weight_map": {"a": "one.safetensors", "scale": "one.safetensors", "b": "two.safetensors"}}
    ),
}


@pytest.fixture
def hub() -> Iterator[Hub]:
    repos = {
        "lab/plain": {"config.json": as_json(CONFIG)},
        "lab/modelopt": {"config.json": as_json(CONFIG), "hf_quant_config.json": as_json(QUANT)},
        "lab/own-quant": {
            "config.json": as_json({**CONFIG, "quantization_config": {"quant_method": "fp8"}}),
            "hf_quant_config.json": as_json(QUANT),
        },
        "lab/gated": {"config.json": as_json(CONFIG)},
        "lab/no-config": {"README.md": b"# nothing"},
        "lab/not-json": {"config.json": b"<html>"},
        "lab/huge": {"config.json": b" " * (21 << 20)},
        "lab/weights": {"config.json": as_json(CONFIG), **WEIGHTS},
        "lab/one-file": {"model.safetensors": WEIGHTS["one.safetensors"]},
        "lab/bad-weights": {"model.safetensors": b"\xff" * 64},
        "lab/portal": {"config.json": as_json(CONFIG)},
        "lab/down": {},
        "lab/busy": {},
        "old-name": {"config.json": as_json(CONFIG)},
    }
    broken = {"lab/down": 500, "lab/busy": 429}
    with Hub(repos, gated={"lab/gated"}, broken=broken, foreign={"lab/portal"}) as running:
        yield running


def test_a_config_and_where_it_came_from(hub: Hub, tmp_path: Path) -> None:
    first, quantized, own, old = ask(
        tmp_path,
        hub.endpoint,
        [{"load": "lab/plain"}, {"load": "lab/modelopt"}, {"load": "lab/own-quant"}, {"load": "old-name"}],
    )
    assert first["values"] == CONFIG
    assert (first["source"], first["revision"], first["name"]) == ("hub", COMMIT, "lab/plain")
    assert first["quant"] is None
    assert quantized["quant"] == QUANT
    assert own["quant"] is None, "vLLM looks at hf_quant_config.json only where config.json says nothing"
    assert old["values"] == CONFIG


def test_the_catalogue_is_asked_before_the_hub_but_for_a_revision(hub: Hub, tmp_path: Path) -> None:
    name = "Qwen/Qwen3-0.6B"
    hub.repos[name] = {"config.json": as_json(CONFIG)}
    catalogue, at_commit = ask(tmp_path, hub.endpoint, [{"load": name}, {"load": name, "revision": COMMIT}])
    assert catalogue["source"] == "catalogue"
    assert at_commit["values"] == CONFIG


def test_gated_and_private_repositories_say_what_to_do(hub: Hub, tmp_path: Path) -> None:
    (gated,) = ask(tmp_path, hub.endpoint, [{"load": "lab/gated"}])
    assert "gated" in gated["error"]
    assert f"{hub.endpoint}/lab/gated" in gated["error"]
    assert "HF_TOKEN" in gated["error"]
    by_environment, by_argument, unknown = ask(
        tmp_path,
        hub.endpoint,
        [{"load": "lab/gated"}, {"load": "lab/gated", "token": TOKEN}, {"load": "lab/unknown"}],
        HF_TOKEN=TOKEN,
    )
    assert by_environment["values"] == by_argument["values"] == CONFIG
    assert "no such model" in unknown["error"]
    (wrong,) = ask(tmp_path / "other", hub.endpoint, [{"load": "lab/gated"}], HF_TOKEN="hf_wrong")
    assert "does not accept the token" in wrong["error"]


FAILURES: list[tuple[dict[str, Any], list[str]]] = [
    ({"load": "lab/nothing-like-it"}, ["no such model", "HF_TOKEN", "spelling"]),
    ({"load": "Qwen/Qwen3-33B"}, ["no such model", "did you mean Qwen/Qwen3-32B"]),
    ({"load": "lab/plain", "revision": "v9"}, ["no revision v9"]),
    ({"load": "lab/no-config"}, ["no config.json"]),
    ({"load": "lab/not-json"}, ["lab/not-json config.json", "not JSON"]),
    ({"load": "lab/huge"}, ["21 MiB", "20 MiB"]),
    ({"load": "lab/down"}, ["HTTP status 500"]),
    ({"load": "lab/busy"}, ["too many requests"]),
    ({"load": "lab/portal"}, ["does not answer like a Hugging Face Hub", "HF_ENDPOINT"]),
]


def test_each_failure_is_one_clear_line(hub: Hub, tmp_path: Path) -> None:
    answers = ask(tmp_path, hub.endpoint, [call for call, _ in FAILURES])
    for (call, words), answer in zip(FAILURES, answers, strict=True):
        assert "error" in answer, call
        assert "\n" not in answer["error"]
        for word in [call["load"], *words]:
            assert word in answer["error"]
    assert "GET /lab/huge/resolve/main/config.json" not in hub.requests, "refused before the download"


def test_the_cache_serves_when_the_hub_cannot(hub: Hub, tmp_path: Path) -> None:
    ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}, {"load": "lab/modelopt"}])
    hub.requests.clear()
    calls = [{"load": "lab/plain"}, {"load": "lab/modelopt"}, {"load": "lab/weights"}]
    plain, modelopt, absent = ask(tmp_path, hub.endpoint, calls, HF_HUB_OFFLINE="1")
    assert (plain["values"], modelopt["quant"]) == (CONFIG, QUANT)
    assert "HF_HUB_OFFLINE" in absent["error"]
    plain, modelopt, absent = ask(tmp_path, hub.endpoint, [{**call, "offline": True} for call in calls])
    assert (plain["values"], modelopt["quant"]) == (CONFIG, QUANT)
    assert "error" in absent
    assert hub.requests == [], "offline means that nobody is asked"
    plain, modelopt, absent = ask(tmp_path, UNREACHABLE, calls)
    assert (plain["values"], modelopt["quant"]) == (CONFIG, QUANT)
    assert f"{UNREACHABLE} cannot be reached" in absent["error"]
    assert absent["seconds"] < 10, "no retries for half a minute"


def test_what_is_cached_is_not_downloaded_again_and_what_changed_is(hub: Hub, tmp_path: Path) -> None:
    ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}])
    hub.requests.clear()
    ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}])
    assert [request.split()[0] for request in hub.requests] == ["HEAD", "HEAD"]


@pytest.mark.parametrize("content", [b"", b'{"model_type": "lla', b"\0" * 500])
def test_a_damaged_cache_is_mended_or_named(hub: Hub, tmp_path: Path, content: bytes) -> None:
    ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}])
    (blob,) = [path.resolve() for path in tmp_path.rglob("config.json")]
    blob.write_bytes(content)
    (offline,) = ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}], HF_HUB_OFFLINE="1")
    assert "lab/plain config.json" in offline["error"]
    assert "remove the copy" in offline["error"]
    (online,) = ask(tmp_path, hub.endpoint, [{"load": "lab/plain"}])
    assert online["values"] == CONFIG


def test_a_cache_that_cannot_be_written(hub: Hub, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (answer,) = ask(tmp_path / "cache", hub.endpoint, [{"load": "lab/plain"}], before=without_rights())
    assert "HF_HOME" in answer["error"]


def test_a_cache_that_is_a_file(hub: Hub, tmp_path: Path) -> None:
    (tmp_path / "home").write_text("not a folder")
    (answer,) = ask(tmp_path / "home", hub.endpoint, [{"load": "lab/plain"}])
    assert "HF_HOME" in answer["error"]


def test_weights_are_counted_from_their_headers_alone(hub: Hub, tmp_path: Path) -> None:
    sharded, single, none, bad, gone, offline = ask(
        tmp_path,
        hub.endpoint,
        [
            {"facts": "lab/weights"},
            {"facts": "lab/one-file"},
            {"facts": "lab/plain"},
            {"facts": "lab/bad-weights"},
            {"facts": "lab/gone"},
            {"facts": "lab/weights", "offline": True},
        ],
    )
    assert sharded["facts"] == {"bytes": 64 + 4 + 16, "parameters": 32 + 1 + 16}
    assert single["facts"] == {"bytes": 68, "parameters": 33}
    assert none["facts"] is None
    assert offline["facts"] is None
    assert "bad-weights" in bad["error"]
    assert "error" in gone or gone["facts"] is None


@pytest.mark.parametrize("name", ["Qwen/Qwen3-8B", "gpt2", "org/a.b_c-1", "0xabc/model"])
def test_names_the_hub_can_have(name: str) -> None:
    assert hub_module.is_repo_id(name)


@pytest.mark.parametrize("name", ["a/b/c", "a b", "a--b/c", "../x", "a/", "/a", "x.git", "é/x", "", "a/\x1b[2J"])
def test_names_the_hub_cannot_have(name: str) -> None:
    assert not hub_module.is_repo_id(name)
