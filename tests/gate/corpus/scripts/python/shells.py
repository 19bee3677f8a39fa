import os
import shlex
import sys

MODEL = os.environ.get("MODEL", "Qwen/Qwen3-8B")
os.system("CUDA_VISIBLE_DEVICES=0,1 vllm serve Qwen/Qwen3-32B --tensor-parallel-size 4 &")
args = shlex.split(
    f"""
    vllm serve {MODEL}
    --max-model-len 16384
    --port {sys.argv[1]}
    """
)
print("vllm serve is what this starts")
os.system(f"docker run vllm/vllm-openai:v0.11.0 --model {sys.argv[2]}")
