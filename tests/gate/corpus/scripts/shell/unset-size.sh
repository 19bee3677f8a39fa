vllm serve Qwen/Qwen3-32B --tensor-parallel-size $WORLD_SIZE --max-model-len 4096 --port $PORT --api-key $API_KEY
vllm serve $MODEL --max-model-len 4096
vllm serve Qwen/Qwen3-8B --port $PORT --download-dir "$SCRATCH/models"
vllm serve
