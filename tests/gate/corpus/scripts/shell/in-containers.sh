#!/usr/bin/env bash
# Launches in containers that run already, and commands put together as text.
MODEL="Qwen/Qwen3-8B"
CMD="vllm serve $MODEL \
    --tensor-parallel-size 1 \
    --max-model-len ${MAX_MODEL_LEN:-32768}"
if [[ "$1" == "--background" ]]; then
  $CMD &
else
  $CMD
fi

node() { ssh node1 "$@"; }
start() {
  local container="$1"
  node "docker exec -d $container /bin/bash -c 'vllm serve $MODEL --tensor-parallel-size 3'"
}
start ray-head
docker exec -it vllm vllm serve $MODEL --max-model-len 99999
docker compose run --rm vllm vllm serve $MODEL
eval "CUDA_VISIBLE_DEVICES=0 vllm serve $MODEL --tensor-parallel-size 2 &"
