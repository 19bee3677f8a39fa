#!/bin/bash
HOST=gpu-node-07
TP=4
rsync -a ./templates "$HOST":/srv/vllm/
ssh -o StrictHostKeyChecking=no -p 2222 "deploy@$HOST" 'bash -s' <<'REMOTE'
  set -e
  cd /srv/vllm
  source .venv/bin/activate
  TP=8
  nohup vllm serve meta-llama/Llama-3.1-70B-Instruct \
      --tensor-parallel-size $TP \
      --max-model-len 16384 > vllm.log 2>&1 &
REMOTE
ssh "$HOST" <<EOF
  pkill -f "vllm serve" || true
  vllm serve mistralai/Mistral-7B-Instruct-v0.3 --tensor-parallel-size $TP
EOF
ssh "$HOST" "cd /srv && vllm serve meta-llama/Llama-3.1-70B-Instruct"
