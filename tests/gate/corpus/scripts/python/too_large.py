import vllm

llm = vllm.LLM("meta-llama/Llama-3.1-70B-Instruct", max_model_len=8192)
