#!/usr/bin/env bash
# Chat model of the demo.
set -euo pipefail

export HF_TOKEN="hf_NeverPrinted0123456789abcdef"
export HF_HUB_ENABLE_HF_TRANSFER=1

exec vllm serve meta-llama/Llama-3.1-8B-Instruct \
    --host 0.0.0.0 \
    --port 8000 \
    --served-model-name llama-8b chat-default \
    --max-model-len 32768 \
    --gpu-memory-utilization 0.92 \
    --api-key "sk-NeverPrinted-4f1d2a" \
    --enable-auto-tool-choice --tool-call-parser llama3_json
