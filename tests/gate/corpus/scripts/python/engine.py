import os

import torch
from vllm.engine.arg_utils import AsyncEngineArgs as Args
from vllm.v1.engine.async_llm import AsyncLLM

COMMON = {"max_model_len": 16384, "dtype": torch.bfloat16}
os.environ["CUDA_VISIBLE_DEVICES"] = "0,1"

engine = AsyncLLM.from_engine_args(
    Args(
        model=os.environ.get("MODEL", "Qwen/Qwen3-32B"),
        tensor_parallel_size=2,
        **COMMON,
    )
)
other = Args(model=f"Qwen/Qwen3-{8}B", quantization="fp8", tensor_parallel_size=4)
