#!/bin/sh
set -e
: "${MODEL_NAME:?set MODEL_NAME}"
ARGS="--model $MODEL_NAME --host 0.0.0.0 --port ${PORT:-8000}"
[ -n "$MAX_MODEL_LEN" ] && ARGS="$ARGS --max-model-len $MAX_MODEL_LEN"
if [ -n "$QUANTIZATION" ]; then ARGS="$ARGS --quantization $QUANTIZATION"; fi
exec python3 -m vllm.entrypoints.openai.api_server $ARGS "$@"
