#!/usr/bin/env bash
set -Eeuo pipefail
NAME=gemma
IMAGE=vllm/vllm-openai:v0.10.2
MODEL=google/gemma-3-27b-it

DOCKER_ARGS=(
  -d                        # in the background
  --name "$NAME"
  --gpus '"device=0,1"'
  --ipc host
  -p 8000:8000
  -e HF_TOKEN
  -v "$HOME/.cache/huggingface:/hub"
)
# What the server gets
VLLM_ARGS=(
  --model "$MODEL"

  --tensor-parallel-size 2
  --max-model-len 131072
  --max-num-seqs 8          # few users
  --limit-mm-per-prompt '{"image": 2}'
)
if [[ "${EAGER:-0}" == 1 ]]; then
  VLLM_ARGS+=(--enforce-eager)
fi
docker rm -f "$NAME" >/dev/null 2>&1 || true
exec docker run "${DOCKER_ARGS[@]}" "$IMAGE" "${VLLM_ARGS[@]}"
