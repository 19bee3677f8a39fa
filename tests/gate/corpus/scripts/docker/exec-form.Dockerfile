FROM vllm/vllm-openai:v0.12.0
ENV MODEL_ID Qwen/Qwen3-8B
ENTRYPOINT ["vllm", "serve"]
CMD ["$MODEL_ID", "--max-model-len", "8192"]
