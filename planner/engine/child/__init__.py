"""The engine's own process: run as a script by any Python that has vLLM, so it imports nothing of this project."""
