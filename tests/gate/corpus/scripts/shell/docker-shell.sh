docker run -it --gpus device=3 --entrypoint /bin/bash vllm/vllm-openai:v0.10.2 -c "
  pip install -q 'transformers>=4.55'
  vllm serve Qwen/Qwen3-8B --max-model-len 4096
"
podman run --device nvidia.com/gpu=0 --device nvidia.com/gpu=1 docker.io/vllm/vllm-openai:v0.12.0 \
  --model=mistralai/Mistral-7B-Instruct-v0.3 -tp 2
docker run --rm python:3.12 python -c "print('vllm serve is not started here')"
