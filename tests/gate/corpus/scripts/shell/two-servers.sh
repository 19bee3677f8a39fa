export CUDA_VISIBLE_DEVICES=0,1
python3 -m vllm.entrypoints.openai.api_server --model Qwen/Qwen3-32B -tp 2 --max-model-len 8192 --port 8000 &
CUDA_VISIBLE_DEVICES=2 python -u -m vllm.entrypoints.openai.api_server \
    --model Qwen/Qwen3-32B --tensor-parallel-size 2 --max-model-len 8192 --port 8001 &
CUDA_VISIBLE_DEVICES="" vllm serve Qwen/Qwen3-8B
wait
