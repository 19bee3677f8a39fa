"""Scores a file of prompts."""

from vllm import LLM, SamplingParams

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


def main() -> None:
    llm = LLM(
        model=MODEL,
        max_model_len=8 * 1024,
        gpu_memory_utilization=0.9,
        hf_token="hf_NeverPrinted0123456789abcdef",
    )
    print(llm.generate(["Hello"], SamplingParams(temperature=0)))


if __name__ == "__main__":
    main()
