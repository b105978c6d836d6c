"""The Hugging Face router."""

from __future__ import annotations

from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.events import encode
from gateway.emulator.http import Request
from gateway.emulator.machine import Machine
from gateway.emulator.profile import Answer, Behaviours, Profile, documented, inferred
from gateway.emulator.settings import Settings

ROUTES = ("fastest", "cheapest", "preferred")
PROVIDERS = ("together", "fireworks-ai", "groq", "cerebras")


class HuggingFace(Profile):
    name = "huggingface"
    reads = "the Hugging Face hub's documentation sources"
    model = "openai/gpt-oss-120b"
    bills_hang_ups_whole = True
    defaults = Settings(replicas=4, input_usd=0.15, output_usd=0.6)
    behaviours: ClassVar[Behaviours] = (
        documented("`model:provider`, or `:fastest`, `:cheapest`, `:preferred`"),
        documented("`GET /v1/models` tells each provider's status, context, price and speed"),
        documented("a hang-up does not stop the bill"),
        inferred("errors are OpenAI's; an unknown provider is 400"),
        inferred("the prices; streams are OpenAI's"),
    )

    def check(self, asked: Asked) -> None:
        _, colon, provider = asked.model.partition(":")
        if colon and provider not in (*ROUTES, *PROVIDERS):
            text = f"The model is not supported by the provider {provider!r}."
            raise Refusal(400, text, kind="invalid_request_error", code="model_not_supported")

    def route(self, request: Request, machine: Machine) -> Answer | None:
        if (request.method, request.path) != ("GET", "/v1/models"):
            return None
        settings = self.settings
        provided = {
            "status": "live",
            "context_length": settings.context_tokens,
            "pricing": {"input": settings.input_usd, "output": settings.output_usd},
            "supports_tools": True,
            "supports_structured_output": True,
            "first_token_latency_ms": settings.overhead_s * 1000,
            "throughput": settings.tokens_per_s,
        }
        data = [
            {
                "id": name,
                "object": "model",
                "created": 1_700_000_000,
                "owned_by": name.partition("/")[0],
                "providers": [{"provider": provider, **provided} for provider in PROVIDERS],
            }
            for name in settings.models or (self.model,)
        ]
        return Answer(200, encode({"object": "list", "data": data}))
