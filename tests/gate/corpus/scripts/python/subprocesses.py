import subprocess

MODEL = "Qwen/Qwen3-32B"
PORT = 8000

command = ["vllm", "serve", MODEL, "--port", str(PORT), "--tensor-parallel-size", str(2)]
subprocess.Popen(command)
subprocess.run(
    [
        "python3",
        "-m",
        "vllm.entrypoints.openai.api_server",
        "--model",
        "meta-llama/Llama-3.1-70B-Instruct",
        "--max-model-len",
        "8192",
    ],
    check=True,
)
