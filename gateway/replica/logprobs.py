"""Log-probabilities as OpenAI's answers have them. No I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.replica.request import Logprobs
from gateway.replica.text import Tokenizer

LOWEST = -9999.0
"""In place of minus infinity, which JSON does not have (vLLM's number)."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One token of an answer."""

    token: int
    offset: int  # characters of the answer's text before it
    logprobs: Logprobs


def chat_logprobs(scored: Sequence[Scored], tokenizer: Tokenizer) -> dict[str, object]:
    """`choices[].logprobs` of a chat. A token that cuts a character shows what it has of it as
    U+FFFD; its `bytes` are exact."""

    def entry(token: int, logprob: float) -> dict[str, object]:
        written = tokenizer.written(token)
        text = written.decode(errors="replace")
        return {"token": text, "logprob": _finite(logprob), "bytes": list(written)}

    content = [
        entry(each.token, each.logprobs.chosen)
        | {"top_logprobs": [entry(*alternative) for alternative in each.logprobs.top]}
        for each in scored
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(
    scored: Sequence[Scored], tokenizer: Tokenizer, top: int
) -> dict[str, object]:
    """`choices[].logprobs` of a completion, the older shape. As OpenAI's does, `top_logprobs` has
    the chosen token beside the `top` likeliest, and writes a cut character as `bytes:\\xe2`."""

    def name(token: int) -> str:
        written = tokenizer.written(token)
        try:
            return written.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in written)

    likeliest = [
        {name(token): _finite(logprob) for token, logprob in each.logprobs.top}
        | {name(each.token): _finite(each.logprobs.chosen)}
        for each in scored
    ]
    return {
        "tokens": [name(each.token) for each in scored],
        "token_logprobs": [_finite(each.logprobs.chosen) for each in scored],
        "top_logprobs": likeliest if top else None,
        "text_offset": [each.offset for each in scored],
    }


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST)
