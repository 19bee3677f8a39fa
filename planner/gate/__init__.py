"""The CI gate: deployment files in, a verdict for every vLLM launch in them out."""
