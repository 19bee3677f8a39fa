for model in Qwen/Qwen3-4B Qwen/Qwen3-8B meta-llama/Llama-3.3-70B-Instruct; do
  for tp in 1 2; do
    timeout 600 vllm serve "$model" -tp $tp --max-model-len 8k --port $((8000 + tp))
  done
done
while read -r name; do
  vllm serve "$name"
done < models.txt
