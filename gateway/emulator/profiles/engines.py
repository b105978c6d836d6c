"""Engines that people run themselves: vLLM, SGLang, llama.cpp's server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from gateway.emulator.asked import Asked, Refusal
from gateway.emulator.events import encode
from gateway.emulator.http import Request
from gateway.emulator.machine import Machine
from gateway.emulator.profile import (
    Answer,
    Behaviours,
    Object,
    Profile,
    Usage,
    Usual,
    documented,
    inferred,
)
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


class Engine(Profile):
    needs_key = False
    model = "qwen"
    defaults = Settings(slots=8, cache_tokens=131_072)
    metric_prefix: ClassVar[str] = ""

    def route(self, request: Request, machine: Machine) -> Answer | None:
        if request.path == "/health":
            if machine.start():
                raise self.starting(0)
            return self.healthy()
        if request.path == "/metrics":
            lines = (f"{self.metric_prefix}{n} {v:g}\n" for n, v in self.metrics(machine).items())
            return Answer(200, "".join(lines).encode(), media_type=PROMETHEUS)
        return None

    def healthy(self) -> Answer:
        return Answer(200, b"")

    def metrics(self, machine: Machine) -> Mapping[str, float]:
        """Name, with labels, to value."""
        return {}


class VLLM(Engine):
    name = "vllm"
    reads = "vLLM's documentation and sources"
    continues = True
    metric_prefix = "vllm:"
    behaviours: ClassVar[Behaviours] = (
        documented(
            "`/metrics` with `vllm:num_requests_running`, `_waiting`, `kv_cache_usage_perc`"
        ),
        documented("`/health` is empty, with 200"),
        documented("`continue_final_message` goes on where the assistant's message ends"),
        documented("`cache_salt` keeps caches apart"),
        documented("no key is needed, unless it is set"),
        documented("`/v1/models` tells `max_model_len`"),
        inferred("errors are `{error: {message, type, param, code: status}}`"),
        inferred("the continuation is what the undisturbed answer would have said"),
    )

    def cache_salt(self, asked: Asked, headers: Mapping[str, str], account: str) -> str:
        return str(asked.body.get("cache_salt") or "")

    def model_entry(self) -> Object:
        return {"max_model_len": self.settings.context_tokens}

    def body(self, refusal: Refusal) -> Object:
        body = super().body(refusal)
        body["error"]["code"] = refusal.status
        return body

    def metrics(self, machine: Machine) -> Mapping[str, float]:
        name = (self.settings.models or (self.model,))[0]
        label = f'{{engine="0",model_name="{name}"}}'
        values = {
            "num_requests_running": machine.load - machine.waiting,
            "num_requests_waiting": machine.waiting,
            "kv_cache_usage_perc": _in_use(machine),
            "prefix_cache_queries_total": machine.queried_tokens,
            "prefix_cache_hits_total": machine.hit_tokens,
            "prompt_tokens_total": machine.queried_tokens,
            "generation_tokens_total": machine.generated_tokens,
        }
        return {f"{metric}{label}": value for metric, value in values.items()}


class SGLang(Engine):
    name = "sglang"
    reads = "SGLang's documentation"
    continues = True
    metric_prefix = "sglang:"
    behaviours: ClassVar[Behaviours] = (
        documented("`/metrics` with `sglang:num_running_reqs`, `num_queue_reqs`, `token_usage`"),
        documented("`continue_final_message` goes on where the assistant's message ends"),
        inferred("`/v1/models` tells `max_model_len`"),
        inferred("errors are flat: `{object: error, message, type, param, code: status}`"),
        inferred("`/health` is empty, with 200"),
        inferred("the continuation is what the undisturbed answer would have said"),
    )

    def model_entry(self) -> Object:
        return {"max_model_len": self.settings.context_tokens}

    def body(self, refusal: Refusal) -> Object:
        error = super().body(refusal)["error"]
        return {"object": "error", **error, "code": refusal.status}

    def error_event(self, refusal: Refusal, run: Run) -> Object:
        return {"error": self.body(refusal)}

    def metrics(self, machine: Machine) -> Mapping[str, float]:
        name = (self.settings.models or (self.model,))[0]
        label = f'{{model_name="{name}"}}'
        values = {
            "num_running_reqs": machine.load - machine.waiting,
            "num_queue_reqs": machine.waiting,
            "token_usage": _in_use(machine),
            "cache_hit_rate": machine.hit_tokens / max(1, machine.queried_tokens),
            "prompt_tokens_total": machine.queried_tokens,
            "generation_tokens_total": machine.generated_tokens,
        }
        return {f"{metric}{label}": value for metric, value in values.items()}


class LlamaCpp(Engine):
    name = "llama-cpp"
    reads = "llama.cpp's server README"
    prefills = True
    usage_in = Usage.ASKED
    metric_prefix = "llamacpp:"
    defaults = Settings(slots=4, cache_tokens=32_768, tokens_per_s=40.0, prefill_tokens_per_s=2000)
    usual: ClassVar[Usual] = {503: ("Loading model", "unavailable_error", None)}
    behaviours: ClassVar[Behaviours] = (
        documented("`/health` is `{status: ok}`, or 503 while the model loads"),
        documented("`/metrics` with `llamacpp:requests_processing`, `requests_deferred`"),
        documented("errors are `{error: {code: status, message, type}}`"),
        documented("`/props` tells a slot's context"),
        documented("a message of the assistant's at the end is gone on with, unless switched off"),
        inferred("`timings` in the last event and the answer"),
        inferred("a prompt that is too long: 400 `exceed_context_size_error`"),
    )

    def healthy(self) -> Answer:
        return Answer(200, b'{"status":"ok"}')

    def route(self, request: Request, machine: Machine) -> Answer | None:
        if request.path == "/props":
            told = {"n_ctx": self.settings.context_tokens}
            return Answer(200, encode({"default_generation_settings": told}))
        return super().route(request, machine)

    def body(self, refusal: Refusal) -> Object:
        error = {"code": refusal.status, "message": refusal.message, "type": refusal.kind}
        return {"error": {**error, **refusal.extra}}

    def overflow(self, asked: Asked, prompt_tokens: int) -> Refusal | None:
        return Refusal(
            400,
            "the request exceeds the available context size, try increasing it",
            kind="exceed_context_size_error",
            extra={"n_prompt_tokens": prompt_tokens, "n_ctx": self.settings.context_tokens},
        )

    def finish_event(self, chunk: Object, run: Run) -> None:
        chunk["timings"] = _timings(run)

    def whole(self, answer: Object, run: Run) -> None:
        answer["timings"] = _timings(run)

    def metrics(self, machine: Machine) -> Mapping[str, float]:
        return {
            "requests_processing": machine.load - machine.waiting,
            "requests_deferred": machine.waiting,
            "kv_cache_usage_ratio": _in_use(machine),
            "prompt_tokens_total": machine.queried_tokens - machine.hit_tokens,
            "tokens_predicted_total": machine.generated_tokens,
        }


def _in_use(machine: Machine) -> float:
    caches = [replica.cache for replica in machine.replicas]
    return sum(cache.in_use for cache in caches) / sum(cache.capacity for cache in caches)


def _timings(run: Run) -> Object:
    return {
        "cache_n": run.cached_tokens,
        "prompt_n": run.prompt_tokens - run.cached_tokens,
        "prompt_ms": run.prefill_s * 1000,
        "predicted_n": run.completion_tokens,
        "predicted_ms": run.decode_s * 1000,
    }
