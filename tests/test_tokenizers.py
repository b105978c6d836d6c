"""Prompts counted by tokenizers that are here, and never fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.models import ModelError, cache_folder, lookup
from gateway.tokenizers import counter
from tests.support.requests import chat, completion

ENCODING = "cl100k_base"


@pytest.mark.parametrize(
    ("request_", "tokens"),
    [
        (completion("hello world"), 2),
        (completion("tiktoken is great!"), 6),  # the example of its own manual
        (completion("<|endoftext|>"), 7),  # text, and no control token
        (chat("hi"), 3 + 1 + 1 + 3),  # framing, the role, the text, what begins the answer
        (chat("hi", "hello", "hi"), 3 * (3 + 1 + 1) + 3),
    ],
)
def test_an_encoding_counts_exactly(request_, tokens: int) -> None:
    assert counter(ENCODING)(request_) == tokens


@pytest.mark.parametrize(
    "request_",
    [
        chat("hi", tools=[{"type": "function", "function": {"name": "f"}}]),
        completion(["two", "prompts"]),
    ],
)
def test_what_is_not_plain_text_is_not_counted(request_) -> None:
    assert counter(ENCODING)(request_) is None
    assert counter("smollm2")(request_) is None


def test_a_models_own_tokenizer_counts_its_chat_template() -> None:
    count = counter("smollm2")
    assert count(completion("hello world")) == 2
    alone, turns = count(chat("hi")), count(chat("hi", "hello", "hi"))
    assert alone is not None
    assert turns is not None
    assert turns > alone > 10  # the template has a system message of its own


def test_an_encoding_that_is_not_here_is_not_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    with pytest.raises(ModelError, match="gateway model pull o200k_base"):
        counter("o200k_base")


def test_a_damaged_encoding_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = lookup(ENCODING)
    good = (cache_folder() / known.file).read_bytes()
    monkeypatch.setenv("GATEWAY_CACHE_DIR", str(tmp_path))
    bad = cache_folder() / known.file
    bad.parent.mkdir()
    bad.write_bytes(good[:-1] + b"?")
    with pytest.raises(ModelError, match="damaged"):
        counter(ENCODING)
    assert bad.is_file()
