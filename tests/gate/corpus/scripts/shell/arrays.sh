#!/usr/bin/env bash
args=(
  --max-model-len 40960     # all of it
  --max-num-seqs 128
  --kv-cache-dtype fp8
)
args+=("--enable-prefix-caching")
if [[ -n "${EXTRA_EAGER:-}" ]]; then
  args+=(--enforce-eager)
fi
[ "${DEBUG:-0}" = "1" ] && args+=(--max-log-len 100)

/opt/venv/bin/vllm serve 'Qwen/Qwen3-14B' "${args[@]}" --seed "$RANDOM"
