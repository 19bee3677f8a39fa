"""A Hugging Face config as the list of modules that vLLM builds of it, without running any of its code."""
