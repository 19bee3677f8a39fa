"""Asks vLLM's own classes, without a GPU, what a model weighs and how its KV cache is planned.

`ask()` starts a child process (batch.py) in any Python that has vLLM's dependencies. The child makes itself look like a
CUDA machine with the chosen GPU (fake_device.py, stand_ins.py, meta_tensors.py), builds vLLM's model class on torch's
`meta` device for every pipeline stage (case.py), adds up its tensors (weights.py) and makes the engine core's KV cache
planning calls (kv_plan.py). Importing this package imports only the standard library.
"""

from .client import GpuFacts, VllmProcess, ask, cache_folder, installed_version

__all__ = ["GpuFacts", "VllmProcess", "ask", "cache_folder", "installed_version"]
