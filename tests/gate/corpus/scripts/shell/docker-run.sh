#!/usr/bin/env bash
set -e
IMAGE=vllm/vllm-openai
TAG=v0.11.0
docker rm -f vllm 2>/dev/null || true
docker run -d --name vllm --restart unless-stopped \
  --runtime nvidia --gpus '"device=0,1"' \
  --ipc=host --shm-size 16g \
  -p 127.0.0.1:8000:8000 \
  -v "$HOME/.cache/huggingface:/hub" \
  --env "HUGGING_FACE_HUB_TOKEN=hf_NeverPrinted0123456789abcdef" \
  -e VLLM_API_KEY=NeverPrinted \
  "$IMAGE:$TAG" \
  --model Qwen/Qwen3-32B \
  --tensor-parallel-size 4 \
  --max-model-len 8192

docker run --rm --gpus all vllm/vllm-openai@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef \
  --model Qwen/Qwen3-8B
