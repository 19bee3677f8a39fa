#!/bin/bash
case "$1" in
  small)
    MODEL=Qwen/Qwen3-8B; LEN=16384 ;;
  large)
    MODEL=Qwen/Qwen3-32B
    LEN=32768
    ;;
  embed) exec vllm serve BAAI/bge-m3 --runner pooling ;;
  *)
    echo "usage: $0 small|large|embed"; exit 2 ;;
esac
vllm serve $MODEL --max-model-len $LEN
