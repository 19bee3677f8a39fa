#!/bin/bash
set -e
MODEL=Qwen/Qwen3-32B
sudo tee /etc/systemd/system/vllm.service > /dev/null <<'UNIT'
[Unit]
Description=vLLM
[Service]
ExecStart=/opt/vllm/bin/vllm serve Qwen/Qwen3-32B --max-model-len 70000
Restart=always
UNIT
cat <<EOF > start-vllm.sh
#!/bin/bash
exec vllm serve $MODEL \\
  --max-model-len 8192
EOF
chmod +x start-vllm.sh
systemctl daemon-reload && systemctl enable --now vllm
