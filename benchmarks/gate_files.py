"""Fifty deployment files with a hundred launches of catalogue models, of every kind that the gate reads."""

from __future__ import annotations

from pathlib import Path

import hf_configs

FILES, LAUNCHES = 50, 100
_CARDS = ("H100", "L40S", "A100-SXM4-80GB", "L4", "H200", "T4")


def write(folder: Path) -> None:
    """Two launches a file; about half of them do not fit."""
    names = [name for name in hf_configs.names() if "/" in name]
    models = [names[index * len(names) // LAUNCHES] for index in range(LAUNCHES)]
    for index in range(FILES):
        kind = _KINDS[index % len(_KINDS)]
        suffix, text = kind(models[2 * index], models[2 * index + 1], _CARDS[index % len(_CARDS)])
        (folder / f"launch-{index}{suffix}").write_text(text, encoding="utf-8")
    (folder / "vllm-fit.yaml").write_text("defaults:\n  gpu: L40S\n", encoding="utf-8")


def _shell(one: str, two: str, _card: str) -> tuple[str, str]:
    return (
        ".sh",
        f"""#!/usr/bin/env bash
set -euo pipefail
MODEL=${{1:-{one}}}
ARGS=(--max-model-len 8192 --gpu-memory-utilization 0.92)
export CUDA_VISIBLE_DEVICES=0,1
vllm serve "$MODEL" \\
    --tensor-parallel-size 2 \\
    "${{ARGS[@]}}" &
docker run --gpus all vllm/vllm-openai:v0.12.0 --model {two} --max-model-len 4096
""",
    )


def _kubernetes(one: str, two: str, card: str) -> tuple[str, str]:
    documents = [
        f"""apiVersion: apps/v1
kind: Deployment
metadata:
  name: vllm-{index}
spec:
  template:
    spec:
      nodeSelector:
        nvidia.com/gpu.product: {card}
      containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          args:
            - --model={model}
            - --max-model-len=8192
          resources:
            limits:
              nvidia.com/gpu: "1"
"""
        for index, model in enumerate((one, two))
    ]
    return ".yaml", "---\n".join(documents)


def _compose(one: str, two: str, _card: str) -> tuple[str, str]:
    services = "".join(
        f"""  vllm-{index}:
    image: vllm/vllm-openai:v0.11.0
    command: ["--model", "{model}", "--max-model-len", "16384"]
    deploy:
      resources:
        reservations:
          devices:
            - driver: nvidia
              count: 1
              capabilities: [gpu]
"""
        for index, model in enumerate((one, two))
    )
    return ".compose.yaml", f"services:\n{services}"


def _python(one: str, two: str, _card: str) -> tuple[str, str]:
    return (
        ".py",
        f"""from vllm import LLM

first = LLM(model="{one}", tensor_parallel_size=2, max_model_len=4096)
second = LLM("{two}", gpu_memory_utilization=0.9)
""",
    )


def _service(one: str, two: str, _card: str) -> tuple[str, str]:
    return (
        ".service",
        f"""[Service]
Environment=MODEL={one}
ExecStart=/opt/venv/bin/vllm serve ${{MODEL}} \\
    --max-model-len 8192
ExecStart=/opt/venv/bin/vllm serve {two} --tensor-parallel-size 4
""",
    )


_KINDS = (_shell, _kubernetes, _compose, _python, _service)
