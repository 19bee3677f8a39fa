"""Real engines on this machine's CPU that do not start, or are interrupted while they do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from tests.command_line import run as cli_run
from tests.cpu_engine import ON_CPU_ENGINE
from tests.test_validate_process import MARK, marked

pytestmark = ON_CPU_ENGINE

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


def test_what_is_predicted_to_fail_fails_for_that_reason(capsys, tmp_path):
    """A launch that vLLM refuses in its first process, and one that fails in the engine's own."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(TINY))
    shared = {"model": str(tmp_path / "tiny"), "dtype": "bfloat16"}
    requests = [
        {**shared, "tensor_parallel_size": 3},
        {**shared, "max_model_len": 4096, "kv_cache_memory_bytes": 32 << 20},
    ]
    (tmp_path / "plans.json").write_text(json.dumps(requests))
    words = ("--device", "cpu", "--anyway", "--format", "json", "--store", str(tmp_path / "history.sqlite"))
    code, out, err = cli_run(capsys, "validate", str(tmp_path / "plans.json"), *words)
    refused, short = json.loads(out)["results"]
    assert refused["error"]["message"] == (
        "Total number of attention heads (8) must be divisible by tensor parallel size (3)."
    )
    assert "To serve at least one request with the model's max seq len (4096)" in short["error"]["message"]
    for record, predicted in ((refused, "refused"), (short, "does_not_fit")):
        assert record["status"] == "failed"
        assert record["estimate"]["status"] == predicted
        assert record["agrees"]
        assert record["explanation"]["diagnosis"] is not None
        Path(record["error"]["log_path"]).unlink()
    assert (code, marked()) == (0, []), err


def test_interrupted_start_leaves_nothing():
    """Ctrl-C when the workers of two ranks are up."""
    # A test run in the background of a shell inherits an ignored SIGINT.
    script = f"""
        import signal
        signal.signal(signal.SIGINT, signal.default_int_handler)
        from planner.engine.launch import LaunchSpec, Listener, launch
        args = {{"max_model_len": 2048, "dtype": "bfloat16", "tensor_parallel_size": 2}}
        spec = LaunchSpec(
            config={TINY!r}, engine_args=args, kv_cache_memory_bytes=1 << 30, environment={{{MARK!r}: "yes"}}
        )
        launch(spec, Listener(on_progress=lambda text: print(text, flush=True)))
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        assert parent.stdout is not None
        while parent.stdout.readline().strip() != "loading weights":
            assert parent.poll() is None
        assert marked()
        interrupted = time.monotonic()
        parent.send_signal(signal.SIGINT)
        parent.wait(60)
    assert time.monotonic() - interrupted < 30
    assert not marked()
