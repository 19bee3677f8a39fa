#!/usr/bin/env bash
start_server() {
  local model=$1 port=$2 devices=$3
  shift 3
  CUDA_VISIBLE_DEVICES=$devices nohup \
    vllm serve "$model" --port "$port" "$@" &
}

start_server Qwen/Qwen3-8B 8001 0
start_server Qwen/Qwen3-14B 8002 1,2 --tensor-parallel-size 2
start_server Qwen/Qwen3-32B 8003 3 --tensor-parallel-size 2

never_called() {
  vllm serve mistralai/Mistral-7B-Instruct-v0.3 --max-model-len 99000
}
wait
