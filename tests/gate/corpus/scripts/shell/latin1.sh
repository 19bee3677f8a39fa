#!/bin/bash
# Serveur vllm démo
vllm serve Qwen/Qwen3-8B
