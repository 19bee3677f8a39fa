import json
import subprocess

import modal

MODEL = "Qwen/Qwen3-32B"
N_GPU = 2
FAST_BOOT = False
MINUTES = 60
VERSION = "0.11.2"

image = modal.Image.debian_slim(python_version="3.12").uv_pip_install(f"vllm=={VERSION}", "huggingface-hub")
app = modal.App("qwen")


@app.function(image=image, gpu=f"L40S:{N_GPU}", scaledown_window=15 * MINUTES)
@modal.web_server(port=8000, startup_timeout=10 * MINUTES)
def serve():
    cmd = [
        "vllm",
        "serve",
        MODEL,
        "--host",
        "0.0.0.0",
        "--max-model-len",
        "16384",
    ]
    cmd += ["--enforce-eager" if FAST_BOOT else "--no-enforce-eager"]
    cmd += ["--tensor-parallel-size", str(N_GPU)]
    cmd += ["--compilation-config", json.dumps({"cudagraph_mode": "PIECEWISE"})]
    subprocess.Popen(cmd)


@app.function(image=image, gpu="A10G")
def too_large():
    subprocess.Popen(f"vllm serve {MODEL} --max-model-len 8192", shell=True)


@app.cls(image=image, gpu=["H100", "A100-80GB:1"])
class Either:
    @modal.enter()
    def start(self):
        command = ["vllm", "serve", "Qwen/Qwen3-8B"]
        if self.lora:
            command.append("--enable-lora")
        command.extend(["--port", "8000"])
        subprocess.Popen(" ".join(command), shell=True)
