#!/bin/bash
cd "$(dirname "$0")"
vllm serve --config serve.yaml
vllm serve Qwen/Qwen3-8B --config serve.yaml --max-model-len 2048
vllm serve Qwen/Qwen3-8B --config=/etc/vllm/not-here.yaml
