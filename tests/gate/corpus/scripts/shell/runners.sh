uvx --from vllm==0.12.0 vllm serve Qwen/Qwen3-8B --max-model-len 4096
uv run --with vllm==0.11.2 --with flashinfer-python vllm serve Qwen/Qwen3-8B
conda run -n serving --no-capture-output env CUDA_VISIBLE_DEVICES=0 vllm serve Qwen/Qwen3-8B -tp 2
sudo -u vllm -E numactl --cpunodebind=0 --membind=0 /opt/vllm/bin/vllm serve Qwen/Qwen3-8B
tmux new-session -d -s llm 'vllm serve Qwen/Qwen3-8B --max-model-len 65536'
screen -dmS llm bash -lc "source ~/.bashrc; vllm serve Qwen/Qwen3-4B"
eval "$(conda shell.bash hook)" && conda activate vllm && vllm serve Qwen/Qwen3-0.6B
su - llm -c 'nohup vllm serve Qwen/Qwen3-1.7B > /tmp/log 2>&1 &'
