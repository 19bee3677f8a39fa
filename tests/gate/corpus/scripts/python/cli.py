import argparse

from vllm import LLM

parser = argparse.ArgumentParser()
parser.add_argument("--model", default="Qwen/Qwen3-8B")
parser.add_argument("--tp", type=int, default=1)
args = parser.parse_args()
llm = LLM(model=args.model, tensor_parallel_size=args.tp)
again = LLM(model="Qwen/Qwen3-8B", seed=args.seed, max_model_len=args.length)
fine = LLM(model="Qwen/Qwen3-8B", seed=args.seed, tokenizer=args.tokenizer)
wrong = LLM(model="Qwen/Qwen3-8B", max_seq_len=4096)
