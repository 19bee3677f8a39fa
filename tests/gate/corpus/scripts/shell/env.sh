export MODEL=meta-llama/Llama-3.1-70B-Instruct
export TP=2
export HF_TOKEN=hf_NeverPrinted0123456789abcdef
