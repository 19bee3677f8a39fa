"""For every test: a fault of the planner itself is raised, not told as a person is told it."""

import os

os.environ["VLLM_FIT_DEBUG"] = "1"
