VLLM_USE_V1=0 docker run --gpus all -e VLLM_USE_V1=0 vllm/vllm-openai:v0.9.2 --model Qwen/Qwen3-8B
docker run --gpus all -e VLLM_ALLOW_LONG_MAX_MODEL_LEN=1 vllm/vllm-openai:v0.11.0 --model Qwen/Qwen3-8B --max-model-len 100000
docker run --gpus all vllm/vllm-openai:v0.4.2 --model mistralai/Mistral-7B-Instruct-v0.3
docker run --gpus all vllm/vllm-openai:nightly --model example-org/not-in-the-catalogue
