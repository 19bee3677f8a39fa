#!/bin/sh
# Entry point of the image: whatever the pod's args are.
exec vllm serve "${MODEL_NAME:-Qwen/Qwen3-8B}" "$@"
