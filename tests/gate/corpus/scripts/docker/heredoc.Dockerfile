FROM vllm/vllm-openai:v0.12.0
COPY --chmod=755 <<'EOF' /start.sh
#!/bin/bash
exec vllm serve Qwen/Qwen3-32B \
  --tensor-parallel-size 5
EOF
ENTRYPOINT ["/start.sh"]
