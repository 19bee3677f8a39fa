"""vLLM by rules and in person: its flags and defaults, what it refuses, and how to launch and measure it."""
