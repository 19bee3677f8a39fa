#!/bin/bash
# Somebody forgot the tensor parallel size.
VLLM_WORKER_MULTIPROC_METHOD=spawn vllm serve meta-llama/Llama-3.1-70B-Instruct \
  --max-model-len 8192 \
  --api-key sk-NeverPrinted-77 >> /var/log/vllm.log 2>&1 &
echo $! > /run/vllm.pid
