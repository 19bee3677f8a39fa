#!/bin/sh
: "${PORT:=8000}"
MODEL="${MODEL_ID:-Qwen/Qwen3-32B}"
TP=${TENSOR_PARALLEL_SIZE:-2}
LEN=${MAX_MODEL_LEN:-${CONTEXT:-16384}}

echo "Starting vllm serve $MODEL on port $PORT"
vllm serve "$MODEL" \
	--tensor-parallel-size "$TP" \
	--max-model-len=$LEN \
	--port "$PORT"
