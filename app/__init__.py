"""The what-if page in a browser: `vllm-fit ui`. Views only; every number comes from planner."""
