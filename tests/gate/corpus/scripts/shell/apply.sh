#!/bin/bash
NAMESPACE=llm
kubectl -n "$NAMESPACE" apply -f - <<'EOF'
apiVersion: apps/v1
kind: Deployment
metadata:
  name: vllm-qwen
spec:
  template:
    spec:
      nodeSelector:
        nvidia.com/gpu.product: NVIDIA-L40S
      containers:
        - name: vllm
          image: vllm/vllm-openai:v0.11.0
          args: ["--model", "Qwen/Qwen3-32B", "--max-model-len", "8192"]
          resources:
            limits:
              nvidia.com/gpu: "1"
EOF
