#!/bin/bash
vllm serve Qwen/Qwen3-8B \
  --hf-overrides '{"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}, "max_position_embeddings": 131072}' \
  --max-model-len 131072 \
  --compilation-config "{\"cudagraph_capture_sizes\": [1, 2, 4, 8]}" \
  --override-generation-config.temperature 0.7 -O3 \
  --chat-template $'{{ messages }}\n' \
  --tensor_parallel_size=1
