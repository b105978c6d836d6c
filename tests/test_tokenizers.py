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


TOOLS = [{"type": "function", "function": {"name": "f"}}]


def test_what_is_not_plain_text_is_not_counted() -> None:
    for request in (chat("hi", tools=TOOLS), completion(["two", "prompts"])):
        assert counter(ENCODING)(request) is None
    assert counter("smollm2")(completion(["two", "prompts"])) is None
    assert counter("smollm2")(chat("hi", tools=[{"type": "strange"}])) is None


def test_a_models_own_tokenizer_counts_tools_as_its_template_tells_them() -> None:
    count = counter("smollm2")
    alone, with_tools = count(chat("hi")), count(chat("hi", tools=TOOLS))
    assert alone is not None
    assert with_tools is not None
    assert with_tools > alone + 40
    assert count(chat("hi", tools=TOOLS, tool_choice="none")) == alone


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
