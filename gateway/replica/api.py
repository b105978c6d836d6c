"""The OpenAI dialect that a replica speaks: bytes of a request in, a frozen `Ask` out. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from gateway.domain import Operation
from gateway.replica.fields import Fields, admit, refuse, valid_text
from gateway.replica.prompt import Prompt, parse_chat, parse_prompt
from gateway.replica.response_format import parse_schema
from gateway.replica.sampling import LEAST_REPETITION_PENALTY, Sampling
from gateway.replica.tools import NO_TOOLS, ToolChoice, Tools, parse_tools

COMPLETION_MAX_TOKENS = 16
"""What OpenAI's completions generate when the client does not say."""

MOST_TOKENS = 2**31 - 1
MOST_CHOICES = 8
MOST_BIASES = 1024
MOST_STOPS = 4
MOST_STOP_TOKENS = 128
MOST_CONTINUED = 1 << 17
LONGEST_STOP = 256  # characters; so much of the stream is held back
LONGEST_NAME = 256  # characters of a model's name, a salt, a session's name


@dataclass(frozen=True, slots=True)
class Ask:
    """One parsed request. Its `repr` tells nothing of the prompt."""

    operation: Operation
    model: str
    prompt: Prompt = field(repr=False)  # of a chat operation: a Chat
    stream: bool
    include_usage: bool
    n: int
    sampling: Sampling = field(repr=False)
    """Without the model's own stop tokens; `stop_tokens` are the client's."""
    ignore_eos: bool
    stop: tuple[str, ...] = field(repr=False)
    include_stop: bool  # the stop string or token stays in the text
    echo: bool  # the text begins with the prompt's
    cache_salt: bytes = field(repr=False)  # empty: the public chain
    priority: int
    session_id: str | None
    continued: tuple[int, ...] | None = field(repr=False)
    """Output tokens that were delivered before; None: the answer begins here."""
    return_token_ids: bool
    tools: Tools = field(default=NO_TOOLS, repr=False)
    schema: Mapping[str, object] | None = field(default=None, repr=False)
    """A JSON schema by which the answer's text must be valid."""


def parse(operation: Operation, body: bytes, *, trusted: bool) -> Ask:
    """Raises InvalidRequest, and Forbidden for a gateway-only field of an untrusted caller."""
    fields = admit(operation, body, trusted=trusted)
    sampling, n = _sampling(fields, operation), _choices(fields)
    priority = fields.integer("priority", low=0, high=1000)
    echo = fields.flag("echo")
    if echo and sampling.logprobs is not None:
        refuse("logprobs", "of a prompt are not supported here; leave out echo or logprobs")
    continued = fields.integers("continue_token_ids", most=MOST_CONTINUED)
    if continued is not None and n > 1:
        refuse("continue_token_ids", "continues one choice; n must be 1")
    is_chat = operation is Operation.CHAT
    tools = parse_tools(fields) if is_chat else NO_TOOLS
    schema = parse_schema(fields) if is_chat else None
    if sampling.min_tokens and (schema is not None or tools.choice is ToolChoice.REQUIRED):
        refuse("min_tokens", "cannot be kept with a grammar; leave out it or what asks for one")
    return Ask(
        operation=operation,
        model=fields.text("model", longest=LONGEST_NAME) or refuse("model", "is required"),
        prompt=parse_chat(fields, tools.prompt) if is_chat else parse_prompt(fields),
        stream=fields.flag("stream"),
        include_usage=_include_usage(fields),
        n=n,
        sampling=sampling,
        ignore_eos=fields.flag("ignore_eos"),
        stop=_stop(fields.get("stop")),
        include_stop=fields.flag("include_stop_str_in_output"),
        echo=echo,
        # never empty when given: the empty salt is the public chain's
        cache_salt=(fields.text("cache_salt", longest=LONGEST_NAME) or "").encode(),
        priority=1 if priority is None else priority,
        session_id=fields.text("session_id", longest=LONGEST_NAME),
        continued=continued,
        return_token_ids=fields.flag("return_token_ids"),
        tools=tools,
        schema=schema,
    )


def _sampling(fields: Fields, operation: Operation) -> Sampling:
    top_k = fields.integer("top_k", low=-1, high=MOST_TOKENS)
    return Sampling(
        temperature=fields.number("temperature", default=1.0, low=0.0, high=2.0),
        top_p=fields.number("top_p", default=1.0, low=0.0, high=1.0),
        top_k=max(0, top_k or 0),  # -1 is vLLM's older word for all tokens
        min_p=fields.number("min_p", default=0.0, low=0.0, high=1.0),
        repetition_penalty=fields.number(
            "repetition_penalty", default=1.0, low=LEAST_REPETITION_PENALTY, high=10.0
        ),
        presence_penalty=fields.number("presence_penalty", default=0.0, low=-2.0, high=2.0),
        frequency_penalty=fields.number("frequency_penalty", default=0.0, low=-2.0, high=2.0),
        logit_bias=_logit_bias(fields.get("logit_bias")),
        seed=fields.integer("seed", low=-(2**63), high=2**63 - 1),
        max_tokens=_max_tokens(fields, operation),
        min_tokens=fields.integer("min_tokens", low=0, high=MOST_TOKENS) or 0,
        stop_tokens=frozenset(fields.integers("stop_token_ids", most=MOST_STOP_TOKENS) or ()),
        logprobs=_logprobs(fields, operation),
    )


def _choices(fields: Fields) -> int:
    n = fields.integer("n", low=1, high=MOST_CHOICES)
    n = 1 if n is None else n
    if fields.get("best_of") is not None and fields.integer("best_of", low=1, high=20) != n:
        refuse("best_of", "is not supported here with this value; leave it out or send that of n")
    return n


def _logit_bias(value: object) -> Mapping[int, float]:
    if value is None:
        return {}
    if not isinstance(value, dict) or len(value) > MOST_BIASES:
        refuse("logit_bias", f"must be an object of at most {MOST_BIASES} token ids")
    biases: dict[int, float] = {}
    for key, bias in value.items():
        if not (key.isascii() and key.isdigit() and len(key) <= 10):
            refuse("logit_bias", "must have token ids in its keys, as strings")
        if isinstance(bias, bool) or not isinstance(bias, int | float) or not -100 <= bias <= 100:
            refuse("logit_bias", "must have values from -100 to 100")
        biases[int(key)] = float(bias)
    return biases


def _logprobs(fields: Fields, operation: Operation) -> int | None:
    if operation is Operation.COMPLETION:
        return fields.integer("logprobs", low=0, high=5)
    top = fields.integer("top_logprobs", low=0, high=20)
    if fields.flag("logprobs"):
        return top or 0
    if top:
        refuse("top_logprobs", "is only allowed with logprobs: true")
    return None


def _include_usage(fields: Fields) -> bool:
    options = fields.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        refuse("stream_options", "must be an object")
    if not fields.flag("stream"):
        refuse("stream_options", "is only allowed with stream: true")
    for name in options.keys() - {"include_usage", "include_obfuscation"}:
        refuse(f"stream_options.{name[:64]}", "is unknown; known: include_usage")
    if options.get("include_obfuscation"):
        refuse("stream_options.include_obfuscation", "is not supported here; leave it out")
    include = options.get("include_usage")
    if include is not None and not isinstance(include, bool):
        refuse("stream_options.include_usage", "must be true or false")
    return include is True


def _stop(value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    stops = cast(Sequence[object], value if isinstance(value, list) else [value])
    if len(stops) > MOST_STOPS:
        refuse("stop", f"must have at most {MOST_STOPS} strings")
    texts = tuple(valid_text(stop, "stop") for stop in stops)
    if not all(1 <= len(text) <= LONGEST_STOP for text in texts):
        refuse("stop", f"must have strings of 1 to {LONGEST_STOP} characters")
    return texts


def _max_tokens(fields: Fields, operation: Operation) -> int | None:
    older = fields.integer("max_tokens", low=1, high=MOST_TOKENS)
    if operation is Operation.COMPLETION:
        return COMPLETION_MAX_TOKENS if older is None else older
    newer = fields.integer("max_completion_tokens", low=1, high=MOST_TOKENS)
    if older is not None and newer is not None and older != newer:
        refuse("max_tokens", "differs from max_completion_tokens; send one of them")
    return older if newer is None else newer
