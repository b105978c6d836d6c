"""DeepSeek."""

from __future__ import annotations

from typing import ClassVar

from gateway.emulator.asked import Refusal
from gateway.emulator.profile import Behaviours, Object, Profile, Usage, Usual, documented, inferred
from gateway.emulator.run import Run
from gateway.emulator.settings import Settings


class DeepSeek(Profile):
    name = "deepseek"
    embeds = False
    reads = "api-docs.deepseek.com"
    prefix = ""
    model = "deepseek-v4-flash"
    usage_in = Usage.FINISH
    waiting_comment = "keep-alive"
    waiting_blank = True
    defaults = Settings(
        block_tokens=64,
        concurrency=64,
        input_usd=0.3,
        cached_usd=0.006,
        output_usd=1.2,
    )
    usual: ClassVar[Usual] = {
        401: ("Authentication Fails", "authentication_error", "invalid_request_error"),
        402: ("Insufficient Balance", "unknown_error", "invalid_request_error"),
        422: ("Invalid Parameters", "invalid_request_error", None),
        503: ("Server Overloaded", "server_error", None),
    }
    behaviours: ClassVar[Behaviours] = (
        documented("while it waits a stream has comments `: keep-alive`"),
        documented("while it waits an answer that is no stream has blank lines, then the JSON"),
        documented("usage has `prompt_cache_hit_tokens` and `prompt_cache_miss_tokens`"),
        documented("402 for no balance, 429 for concurrency, no `retry-after`"),
        documented("reasoning in `reasoning_content`"),
        inferred("usage on the finish event; prices as in the peak hours, at all hours"),
        inferred("an error in a stream is an event with `error`, and the end"),
    )

    def usage(self, run: Run) -> Object:
        counts = super().usage(run)
        del counts["prompt_tokens_details"]
        missed = run.prompt_tokens - run.cached_tokens
        cached = {"prompt_cache_hit_tokens": run.cached_tokens, "prompt_cache_miss_tokens": missed}
        return {**counts, **cached}

    def unknown_model(self, model: str) -> Refusal:
        return Refusal(400, "Model Not Exist", kind="invalid_request_error")
