"""Proves plans: launches real vLLM engines with their flags and puts what they measured beside what was predicted."""
