export CUDA_VISIBLE_DEVICES := 0,1,2,3

llm-up:
	set -e; \
	for m in Qwen/Qwen3-8B Qwen/Qwen3-14B; do \
	  vllm serve $$m -tp 4; \
	done
