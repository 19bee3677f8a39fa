#!/bin/bash
python3 -m venv /opt/vllm && . /opt/vllm/bin/activate
pip install --no-cache-dir "vllm==0.10.1" "ray[default]"
vllm serve openai/gpt-oss-20b --max-model-len 32768
