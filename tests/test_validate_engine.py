"""Real engines on this machine's CPU. The expected numbers are written out here, without the planner."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from importlib.resources import files
from typing import Any

import pytest

from planner.engine.launch import LaunchError, LaunchSpec, launch, platform_supports_engine
from planner.engine.measure import Load
from tests.test_validate_process import MARK, marked

support = platform_supports_engine("cpu")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.slow,
    pytest.mark.xdist_group("engine"),
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not support, reason=f"no CPU engine here: {support.reason}"),
]

GIB = 1 << 30

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 1000,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}


def test_smollm2_bytes_tokens_and_load():
    config = json.loads((files("hf_configs") / "HuggingFaceTB--SmolLM2-135M-Instruct" / "config.json").read_text())
    load = Load(concurrency=2, input_len=16, output_len=8, requests=3, rounds=2)
    texts: list[str] = []
    measured = launch(
        LaunchSpec(
            config=config,
            engine_args={"max_model_len": 2048, "dtype": "bfloat16"},
            kv_cache_memory_bytes=GIB,
            loads=(load,),
        ),
        on_progress=texts.append,
    )

    # 134,515,008 parameters, as published; the rotary cache of 8192 positions x 64; four float32 scales a layer
    assert measured.weights_bytes == (134_515_008 * 2 + 8192 * 64 * 2 + 30 * 4 * 4,)
    # 30 layers x (K and V) x 3 heads x 64 x 2 bytes x 128 tokens a block
    assert measured.kv_cache.num_blocks == GIB // (30 * 2 * 3 * 64 * 2 * 128) == 364
    assert measured.kv_cache.block_size == 128
    assert measured.kv_cache.tokens == 364 * 128 == 46_592
    assert measured.kv_cache.max_concurrency == 46_592 / 2048
    assert measured.kv_cache.available_kv_bytes == GIB

    (result,) = measured.loads
    assert result.load == load
    assert len(result.rounds) == 2
    assert result.output_tokens_per_s > 0
    assert 0 < result.ttft_ms.p50 <= result.ttft_ms.p90 < result.e2e_ms.p99
    assert result.tpot_ms is not None
    assert result.tpot_ms.mean > 0
    assert result.preemptions == 0

    assert measured.engine["device"] == "cpu"
    assert measured.engine["load_format"] == "dummy"
    assert measured.engine["attention_backend"] == "CPU_ATTN"
    assert json.loads(json.dumps(measured.to_dict()))["kv_cache"]["num_blocks"] == 364
    assert "loading weights" in texts
    assert "load 1/1: warming up" in texts


def test_two_ranks():
    measured = launch(
        LaunchSpec(
            config=TINY,
            engine_args={"max_model_len": 2048, "dtype": "bfloat16", "tensor_parallel_size": 2},
            kv_cache_memory_bytes=GIB,
            environment={MARK: "yes"},
        ),
        on_progress=lambda text: None,
    )
    hidden, heads, head, mlp, vocab = 512, 4, 64, 512, 512  # a rank's half; 1000 tokens are padded to 1024
    layer = hidden * (3 * heads * head) + heads * head * hidden + hidden * 2 * mlp + mlp * hidden + 2 * hidden
    parameters = 2 * vocab * hidden + 8 * layer + hidden
    buffers = 4096 * 64 * 2 + 8 * 4 * 4
    assert measured.weights_bytes == (2 * parameters + buffers,) * 2
    # 8 layers x (K and V) x 4 heads of the rank x 64 x 2 bytes = 8 KiB a token
    assert measured.kv_cache.tokens == 131_072
    assert measured.kv_cache.max_concurrency == 64.0
    assert [rank.rank for rank in measured.weights] == [0, 1]
    assert not marked()


def test_refused_start_gives_vllms_own_sentence():
    spec = LaunchSpec(config=TINY, engine_args={"tensor_parallel_size": 3}, kv_cache_memory_bytes=GIB)
    with pytest.raises(LaunchError) as caught:
        launch(spec, on_progress=lambda text: None)
    assert str(caught.value) == ("Total number of attention heads (8) must be divisible by tensor parallel size (3).")
    assert caught.value.log_path is not None
    caught.value.log_path.unlink()


def test_start_that_fails_in_the_engines_process_gives_the_root_cause():
    args = {"max_model_len": 4096, "dtype": "bfloat16"}
    spec = LaunchSpec(config=TINY, engine_args=args, kv_cache_memory_bytes=32 << 20, environment={MARK: "yes"})
    with pytest.raises(LaunchError) as caught:
        launch(spec, on_progress=lambda text: None)
    assert "To serve at least one request with the model's max seq len (4096)" in str(caught.value)
    assert not marked()
    assert caught.value.log_path is not None
    caught.value.log_path.unlink()


@pytest.mark.parametrize("stage", ["importing vLLM", "loading weights"])
def test_interrupted_start_leaves_nothing(stage):
    """Ctrl-C early, and when vLLM's workers are up."""
    # A test run in the background of a shell inherits an ignored SIGINT.
    script = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from planner.engine.launch import LaunchSpec, launch
        args = {{"max_model_len": 2048, "dtype": "bfloat16", "tensor_parallel_size": 2}}
        spec = LaunchSpec(
            config={TINY!r}, engine_args=args, kv_cache_memory_bytes=1 << 30, environment={{{MARK!r}: "yes"}}
        )
        launch(spec, on_progress=lambda text: print(text, flush=True))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != stage:
            assert parent.poll() is None
        assert marked()
        interrupted = time.monotonic()
        parent.send_signal(signal.SIGINT)
        parent.wait(60)
    assert time.monotonic() - interrupted < 30
    assert not marked()
