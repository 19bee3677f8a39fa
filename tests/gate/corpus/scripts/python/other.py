"""Has an LLM of its own; vllm is only named."""


class LLM:
    def __init__(self, model: str) -> None:
        self.model = model


llm = LLM(model="gpt")
