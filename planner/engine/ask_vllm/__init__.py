"""Asks vLLM's own classes, without a GPU, what a model weighs and how its KV cache is planned.

`client.ask()` starts a child process (batch.py) in any Python that has vLLM's dependencies. The child makes itself look
like a CUDA machine with the chosen GPU (fake_device.py, stand_ins.py, meta_tensors.py), builds vLLM's model class on
torch's `meta` device for every pipeline stage (case.py), adds up its tensors (weights.py) and calls the engine core's
KV cache planning (kv_plan.py). Only client.py imports the planner: the child may run where there is none.
"""
