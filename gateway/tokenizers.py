"""
Tokenizers that a config names, so that prompts can be counted here: an encoding of tiktoken, which
the cache folder must hold (nothing is fetched when a request comes), or a model's own file or
folder, whose chat template counts too.
"""

from __future__ import annotations

import json
import os

from gateway.counting import Counter
from gateway.domain import InferenceRequest
from gateway.errors import InvalidRequest
from gateway.models import ModelError, find, is_right, lookup
from gateway.wire.openai import countable

ENCODINGS = ("cl100k_base", "o200k_base")

PER_MESSAGE, PER_ANSWER = 3, 3
"""Tokens around each message and before the answer, as OpenAI documents them for both encodings."""


def counter(tokenizer: str) -> Counter:
    """By an encoding's name, or a model's name or path. Raises ModelError, ValueError, OSError."""
    return _by_encoding(tokenizer) if tokenizer in ENCODINGS else _by_model(tokenizer)


def _by_encoding(name: str) -> Counter:
    import tiktoken

    path = find(name)
    if not is_right(lookup(name), path):
        raise ModelError(f"{path} is damaged; run: gateway model pull {name} --force")
    # Where tiktoken looks before it would download; what it finds is the file that was checked.
    os.environ["TIKTOKEN_CACHE_DIR"] = str(path.parent)
    encoding = tiktoken.get_encoding(name)

    def count(request: InferenceRequest) -> int | None:
        if (fields := countable(request)) is None:
            return None
        if "prompt" in fields:
            return len(encoding.encode_ordinary(fields["prompt"]))
        messages = fields["messages"]
        plain = all(message.keys() == {"role", "content"} for message in messages)
        if fields.get("tools") or not plain or any(m["content"] is None for m in messages):
            return None  # how tools are written into a prompt, nobody documents
        texts = [text for message in messages for text in (message["role"], message["content"])]
        framing = PER_MESSAGE * len(messages) + PER_ANSWER
        return framing + sum(map(len, encoding.encode_ordinary_batch(texts, num_threads=1)))

    return count


def _by_model(name: str) -> Counter:
    """As a replica of the model would count, by the same code."""
    from gateway.replica.prompt import Chat
    from gateway.replica.template import ChatTemplate
    from gateway.replica.text import Tokenizer
    from gateway.replica.tokenise import parse_tokenise
    from gateway.replica.weights import Weights

    metadata = Weights.open(find(name)).metadata
    tokenizer, source = Tokenizer(metadata), metadata.get("tokenizer.chat_template")
    template = ChatTemplate(source, tokenizer) if isinstance(source, str) else None

    def count(request: InferenceRequest) -> int | None:
        if (fields := countable(request)) is None:
            return None
        try:
            _, prompt = parse_tokenise(json.dumps(fields).encode())
            if isinstance(prompt, str):
                return len(tokenizer.encode_prompt(prompt))
            if isinstance(prompt, Chat) and template is not None:
                return len(template.encode(prompt))
        except InvalidRequest:  # a replica would not take it; who will, may
            return None
        return None

    return count
