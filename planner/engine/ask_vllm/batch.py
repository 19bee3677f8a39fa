"""The child process: imports vLLM once behind a fake GPU, then answers requests in forked children.

    python batch.py '{"gpu": {...}, "vllm_source": null, "timeout_s": 300}' < requests.jsonl > answers.jsonl

"architectures": [...] in the job imports these model classes, and all else that is slow to import, before the first
fork. One JSON request a line on stdin, one JSON answer a line on stdout, in order. Needs no more than vLLM's own
dependencies.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

# Imported before the first fork when many requests are to come, so that one takes about a second.
_PRELOAD = (
    "vllm.compilation.backends",
    "vllm.distributed.kv_transfer.kv_connector.utils",
    "vllm.model_executor.layers.attention",
    "vllm.model_executor.layers.fused_moe.experts.marlin_moe",
    "vllm.model_executor.layers.fused_moe.experts.triton_moe",
    "vllm.model_executor.layers.quantization.auto_awq",
    "vllm.model_executor.layers.quantization.auto_gptq",
    "vllm.model_executor.layers.quantization.compressed_tensors.compressed_tensors",
    "vllm.model_executor.layers.quantization.fp8",
    "vllm.model_executor.layers.quantization.modelopt",
    "vllm.model_executor.model_loader.utils",
    "vllm.usage.usage_lib",
    "vllm.v1.core.kv_cache_utils",
    "vllm.v1.engine.core",
    "vllm.v1.worker.gpu.attn_utils",
    "vllm.v1.worker.workspace",
    "torch._dynamo",
    "torch._inductor.compile_fx",
    "torch.testing._internal.distributed.fake_pg",
)


def _preload(architectures: list[str]) -> None:
    for name in _PRELOAD:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.v1.attention.backends.registry import AttentionBackendEnum

    for backend in AttentionBackendEnum:
        with contextlib.suppress(BaseException):
            backend.get_class()
    with contextlib.suppress(Exception):  # the first quantized model imports every method
        importlib.import_module("vllm.model_executor.layers.quantization").get_quantization_config("fp8")
    for architecture in architectures:
        with contextlib.suppress(BaseException):
            ModelRegistry.models[architecture].load_model_cls()


def _load(job: dict[str, Any]) -> Any:
    """This folder as package `ask_vllm`, whatever the interpreter's path is; the module that runs a case."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != here]
    sys.path.insert(0, str(here.parent))
    fake_device = importlib.import_module(f"{here.name}.fake_device")
    del sys.path[0]
    fake_device.install(job["gpu"], job.get("vllm_source"))
    case = importlib.import_module(f"{here.name}.case")
    if "architectures" in job:
        _preload(job["architectures"])
    with contextlib.suppress(Exception):  # else every fork walks all loggers
        logging_config = importlib.import_module("vllm.config.logging").LoggingConfig()
        importlib.import_module("vllm.logger").configure_logging_if_needed(logging_config)
    gc.collect()
    gc.freeze()
    gc.disable()
    return case


def _answer(case: Any, request: dict[str, Any], timeout: float) -> bytes:
    """Run one request in a fork; its answer as one line."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        line = (json.dumps(case.run(request)) + "\n").encode()
        while line:
            line = line[os.write(writable, line) :]
        os._exit(0)
    os.close(writable)
    received, started = b"", time.monotonic()
    while time.monotonic() - started < timeout:
        if select.select([readable], [], [], 1)[0]:
            chunk = os.read(readable, 1 << 16)
            if not chunk:
                break
            received += chunk
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(readable)
    status = os.waitpid(pid, 0)[1]
    if received.endswith(b"\n"):
        return received
    why = f"took longer than {timeout:.0f} s" if time.monotonic() - started >= timeout else f"died with status {status}"
    error = {"kind": "not_buildable", "type": "Timeout", "message": f"the process that asked vLLM {why}", "where": []}
    return (json.dumps({"id": request.get("id"), "error": error}) + "\n").encode()


def main() -> None:
    """Answers each line of stdin with one of JSON on stdout, until stdin ends; argv[1] is the job."""
    job = json.loads(sys.argv[1])
    answers = os.dup(1)
    os.dup2(2, 1)  # vLLM and its libraries print; stdout carries answers only
    case = _load(job)
    for line in sys.stdin:
        if line.strip():
            data = _answer(case, json.loads(line), float(job.get("timeout_s") or 300))
            while data:
                data = data[os.write(answers, data) :]


if __name__ == "__main__":
    main()
