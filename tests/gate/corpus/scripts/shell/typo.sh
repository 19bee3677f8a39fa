vllm serve Qwen/Qwen3-8B --max-modellen 4096
vllm serve Qwen/Qwen3-8B --tensor-parallel-size two
vllm serve Qwen/Qwen3-8B Qwen/Qwen3-14B
vllm serve Qwen/Qwen3-8B --gpu-memory-utilization 92
vllm serve Qwen/Qwen3-8B --tensor-parallel-size 3
vllm serve Qwen/Qwen3-8B --max-model-len 131072
