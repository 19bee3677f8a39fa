import os

from ray import serve
from ray.serve.llm import LLMConfig, build_openai_app

TP = int(os.environ.get("TP", "1"))

small = LLMConfig(
    model_loading_config=dict(model_id="qwen", model_source="Qwen/Qwen3-8B"),
    accelerator_type="L40S",
    deployment_config=dict(autoscaling_config=dict(min_replicas=1, max_replicas=os.cpu_count())),
    engine_kwargs=dict(max_model_len=8192, tensor_parallel_size=TP),
)
large = LLMConfig(
    model_loading_config={"model_id": "meta-llama/Llama-3.1-70B-Instruct"},
    accelerator_type="L40S",
    engine_kwargs={
        "max_model_len": 8192,
    },
    runtime_env={"env_vars": {"HF_TOKEN": os.environ["HF_TOKEN"]}},
)

serve.run(build_openai_app({"llm_configs": [small, large]}))
