"""The catalogue of GPUs, and what this machine has."""
