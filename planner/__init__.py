"""vllm-fit: what vLLM will do with a model, a GPU and a set of flags, before anything is launched."""

__version__ = "0.1.0"
