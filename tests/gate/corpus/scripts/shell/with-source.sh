#!/usr/bin/env bash
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source "$HERE/env.sh"
vllm serve $MODEL --tensor-parallel-size $TP --max-model-len 4096
