#!/bin/bash
# vllm serve meta-llama/Llama-3.1-405B
echo "run: vllm serve meta-llama/Llama-3.1-405B"
grep -q "vllm serve" README.md
pip install vllm
vllm bench latency --model Qwen/Qwen3-8B
curl -s localhost:8000/v1/models | jq .
pgrep -f 'vllm.entrypoints.openai.api_server' || exit 1
printf 'vllm serve %s\n' "$1"
