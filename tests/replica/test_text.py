from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import models
from gateway.replica.text import Tokenizer
from gateway.replica.text_stream import TextStream
from gateway.replica.weights import Weights
from tests.support.tiny_text import ENDOFTEXT, IM_END, IM_START, THINK, tiny_metadata

TOKENIZER = Tokenizer(tiny_metadata())
CONTROLS = {ENDOFTEXT, IM_START, IM_END}
VALID_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
NAMES = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
# Text that is all fragments of control tokens' names, as an attacker would send it.
FRAGMENTS = st.lists(
    st.sampled_from([*NAMES, "<|im_", "end|>", "<|", "<", "|>", "im_end", "hello "])
).map("".join)


def decoded(tokens: Sequence[int], stop: Sequence[str] = ()) -> str:
    stream = TextStream(TOKENIZER, stop)
    return "".join(map(stream.push, tokens)) + stream.finish()


def test_merges_apply_and_digits_stand_alone() -> None:
    pieces = [TOKENIZER.bytes_of(token) for token in TOKENIZER.encode("hello world 42")]
    assert pieces == [b"hello", b" world", b" ", b"4", b"2"]


@given(VALID_TEXT)
def test_plain_text_survives_the_round_trip(text: str) -> None:
    assert decoded(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "llama-bpe"])
def test_every_pre_tokenizer_keeps_the_text(pre: str) -> None:
    tokenizer = Tokenizer(tiny_metadata(pre))
    text = "I'LL pay 12345 €\n\n  for — it’s 漢字\t<|im_end|>"
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode(text))).decode() == text


def test_qwen2_composes_characters() -> None:
    tokenizer = Tokenizer(tiny_metadata("qwen2"))
    assert b"".join(map(tokenizer.bytes_of, tokenizer.encode("e\u0301"))).decode() == "é"


@pytest.mark.parametrize("name", NAMES)
def test_plain_text_never_becomes_a_control_token(name: str) -> None:
    assert not CONTROLS & set(TOKENIZER.encode(f"so: {name}"))


def test_markup_becomes_control_tokens() -> None:
    tokens = TOKENIZER.encode_marked_up("<|im_start|>hello<|im_end|>")
    assert [tokens[0], tokens[-1]] == [IM_START, IM_END]
    assert tokens[1:-1] == TOKENIZER.encode("hello")


@given(FRAGMENTS, FRAGMENTS)
def test_guarded_text_never_becomes_a_control_token(one: str, two: str) -> None:
    """Not even where two guarded texts meet."""
    tokens = TOKENIZER.encode_marked_up(TOKENIZER.guard(one) + TOKENIZER.guard(two))
    assert not CONTROLS & set(tokens)
    assert decoded(tokens) == one + two


def test_text_that_names_no_control_token_is_guarded_as_it_is() -> None:
    assert TOKENIZER.guard("a <b> | c") == "a <b> | c"


def test_user_defined_tokens_are_plain_text_with_an_id_of_their_own() -> None:
    assert TOKENIZER.encode("<think>") == [THINK]
    assert decoded([THINK]) == "<think>"


def test_control_tokens_add_no_text() -> None:
    assert decoded([IM_START, *TOKENIZER.encode("hello"), IM_END]) == "hello"


def test_a_control_token_is_written_by_its_name() -> None:
    tokens = [IM_START, *TOKENIZER.encode("hello"), IM_END]
    assert TOKENIZER.decode(tokens) == "<|im_start|>hello<|im_end|>"
    assert TOKENIZER.encode_prompt(TOKENIZER.decode(tokens)) == tokens


def test_an_answer_ends_with_the_files_eos_and_the_known_ends() -> None:
    assert TOKENIZER.stop_tokens == {IM_END, ENDOFTEXT}


def test_a_beginning_of_text_is_added_to_prompts_where_the_file_says_so() -> None:
    metadata = tiny_metadata() | {"tokenizer.ggml.add_bos_token": True}
    assert Tokenizer(metadata).encode_prompt("hello") == [IM_START, *TOKENIZER.encode("hello")]
    assert TOKENIZER.encode_prompt("hello") == TOKENIZER.encode("hello")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokenizer.ggml.model": "llama"}, "tokenizer 'llama' is not supported"),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken' is not supported; supported: 'gpt-2'"),
        ({"tokenizer.ggml.merges": None}, "tokenizer.ggml.merges is missing"),
        ({"tokenizer.ggml.token_type": ["x"]}, "tokenizer.ggml.token_type is missing or no list"),
    ],
)
def test_other_tokenizers_are_refused_by_name(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokenizer(tiny_metadata() | change)


def test_a_stream_never_holds_half_a_character() -> None:
    stream = TextStream(TOKENIZER)
    pieces = [stream.push(token) for token in TOKENIZER.encode("é漢")]
    assert pieces == ["", "é", "", "", "漢"]


def test_bytes_that_are_no_text_are_replaced_and_the_stream_goes_on() -> None:
    half, whole = TOKENIZER.encode("漢")[:1], TOKENIZER.encode("hello")
    assert decoded([*half, *whole]) == "\ufffdhello"


def test_a_character_that_is_never_completed_is_left_out() -> None:
    assert decoded([*TOKENIZER.encode("hello"), *TOKENIZER.encode("漢")[:2]]) == "hello"


def test_a_stop_string_is_met_across_tokens_and_left_out() -> None:
    stream = TextStream(TOKENIZER, ["END"])
    pieces = [stream.push(token) for token in TOKENIZER.encode("a EN END b")]
    assert "".join(pieces) == "a EN "
    assert stream.stopped_by == "END"
    assert stream.finish() == ""


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    stream = TextStream(TOKENIZER, ["\n\nQ:"])
    assert [stream.push(token) for token in TOKENIZER.encode("a\n\nb\n")] == [
        "a",
        "",
        "",
        "\n\nb",
        "",
    ]
    assert stream.finish() == "\n"


def test_of_several_stop_strings_the_first_to_be_complete_wins() -> None:
    assert decoded(TOKENIZER.encode("one two three"), stop=["three", "two"]) == "one "


def test_a_stop_string_can_stay_in_the_text() -> None:
    stream = TextStream(TOKENIZER, ["END"], include_stop=True)
    pieces = [stream.push(token) for token in TOKENIZER.encode("a EN END b")]
    assert ("".join(pieces), stream.stopped_by, stream.finish()) == ("a EN END", "END", "")


def test_the_text_of_the_first_min_tokens_is_not_searched() -> None:
    tokens = TOKENIZER.encode("aabab")
    for least, text in enumerate(["", "a", "aab", "aab", "aabab", "aabab"]):
        stream = TextStream(TOKENIZER, ["a"], min_tokens=least)
        assert "".join(map(stream.push, tokens)) + stream.finish() == text


def test_a_stream_counts_its_characters_the_held_ones_included() -> None:
    stream = TextStream(TOKENIZER, ["hello world"])
    lengths = []
    for token in TOKENIZER.encode("é hello"):
        stream.push(token)
        lengths.append(stream.length)
    assert lengths == [0, 1, 2, 7]


@given(VALID_TEXT, st.lists(st.text("ab", min_size=1, max_size=4), max_size=4))
def test_a_stream_cuts_where_a_search_in_the_whole_text_would(text: str, stop: list[str]) -> None:
    tokens = TOKENIZER.encode(text)
    found = [(at + len(each), at) for each in stop if (at := text.find(each)) >= 0]
    assert decoded(tokens, stop) == text[: min(found)[1] if found else None]


def test_the_real_model_reads_and_writes_text() -> None:
    tokenizer = Tokenizer(Weights.open(models.find("smollm2")).metadata)
    assert tokenizer.encode("What is the capital of France?") == [
        *(1780, 314, 260, 3575, 282, 4649, 47)
    ]
    text = "In 2024: naïve café, 漢字 and 🙂\n\n\tdone <|im_end|>"
    tokens = tokenizer.encode(text)
    assert not tokenizer.stop_tokens & set(tokens)
    stream = TextStream(tokenizer)
    assert "".join(map(stream.push, tokens)) == text


@pytest.mark.parametrize("token", [-1, 100_000])
def test_an_end_token_beyond_the_vocabulary_is_refused_by_name(token: int) -> None:
    metadata = {**tiny_metadata(), "tokenizer.ggml.eos_token_id": token}
    with pytest.raises(ValueError, match=f"eos_token_id is {token}"):
        Tokenizer(metadata)
