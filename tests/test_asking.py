"""--ask-vllm: an architecture that no family describes, sized by the installed vLLM's own classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hf_configs
from planner.errors import InputError
from planner.request import answer, prepare

LLAMA = json.loads(hf_configs.path("meta-llama/Llama-3.2-1B").read_text())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Llama-3.2-1B under the name of an architecture that vLLM has (a Llama inside) and no family here describes."""
    (tmp_path / "config.json").write_text(json.dumps({**LLAMA, "architectures": ["PanguEmbeddedForCausalLM"]}))
    return tmp_path


def test_without_the_flag_the_error_names_it(folder: Path):
    with pytest.raises(InputError, match=r"PanguEmbeddedForCausalLM.*--ask-vllm"):
        prepare({"model": str(folder), "gpu": "L4"})


def test_a_known_architecture_is_not_asked_for():
    assert not prepare({"model": "meta-llama/Llama-3.2-1B", "gpu": "L4", "ask_vllm": True}).ask_vllm


@pytest.mark.slow
@pytest.mark.xdist_group("engine")
@pytest.mark.parametrize("gpu", ["L4", "GB10"])
def test_vllms_own_classes_answer(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu: str):
    pytest.importorskip("vllm", reason="no vLLM is installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    request = {"gpu": gpu, "max_model_len": 8192, "vllm_version": "0.32.0"}
    asked = answer({**request, "model": str(folder), "ask_vllm": True})
    known = answer({**request, "model": "meta-llama/Llama-3.2-1B"})
    assert asked["status"] == "fits"
    assert asked["memory"]["weights_bytes"] == known["memory"]["weights_bytes"]
    assert asked["memory"]["model_loading_bytes"] == known["memory"]["model_loading_bytes"]
    assert asked["memory"]["non_torch_bytes"] == known["memory"]["non_torch_bytes"]
    # vLLM looks no further than the length asked for; the planner says what would fit.
    assert asked["kv_cache"].pop("max_model_len_that_fits") == 8192
    assert known["kv_cache"].pop("max_model_len_that_fits") == LLAMA["max_position_embeddings"]
    assert asked["kv_cache"] == known["kv_cache"]
    assert asked["range"] == known["range"]
