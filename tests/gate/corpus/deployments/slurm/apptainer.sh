#!/usr/bin/env bash
#SBATCH -A project_465
#SBATCH -p gpu
#SBATCH --gres=gpu:a100:2
#SBATCH -t 04:00:00
set -e
export MODEL=${1:-meta-llama/Llama-3.1-70B-Instruct}
export PORT=$((8000 + RANDOM % 1000))
SIF=$PROJECT/containers/vllm-openai_v0.9.2.sif
apptainer exec --nv --bind "$PROJECT:/project" "$SIF" \
  python3 -m vllm.entrypoints.openai.api_server \
    --model "$MODEL" --port "$PORT" \
    --tensor-parallel-size "$SLURM_GPUS_ON_NODE" \
    --quantization fp8 --max-model-len 4096 &
PID=$!
trap 'kill $PID' EXIT
wait $PID
