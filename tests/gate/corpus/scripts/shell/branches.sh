#!/usr/bin/env bash
# Chooses by the machine it runs on.
gpus=$(nvidia-smi --list-gpus | wc -l)
if [ "$gpus" -ge 8 ]; then
  TP=8
elif [ "$gpus" -ge 2 ]; then
  TP=2
else
  echo "vllm needs two GPUs at least" >&2
  exit 1
fi
vllm serve meta-llama/Llama-3.1-70B-Instruct --tensor-parallel-size $TP --max-model-len 65536
