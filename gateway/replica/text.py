"""
Text to token ids and back, from the tables that a GGUF file holds. No templates, no sockets.

A control token (`<|im_end|>` and its kind) steers the model, so text that came from a user must
never become one. The tokenizer is therefore built without them: `encode` cannot yield one, and
only `encode_marked_up` looks for their names, in text that is known to be written by a template or
by a client that owns its whole prompt.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

import tokenizers
from tokenizers import AddedToken, Regex, models, normalizers, pre_tokenizers

MARK = "\udfff"
"""Breaks the name of a control token in two. A lone surrogate: no valid text can hold one, so it
cannot collide with a client's (`gateway.replica.api` refuses text that is not valid Unicode)."""

_END_OF_ANSWER = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>")
"""Control tokens that end an answer whatever the file names as its `eos`, as in llama.cpp."""


class _Kind(IntEnum):
    """`tokenizer.ggml.token_type`, from the GGUF specification; the other kinds are plain text."""

    CONTROL = 3
    USER_DEFINED = 4


@dataclass(frozen=True, slots=True)
class _Pre:
    """What happens to text before merges. Without a pattern: GPT-2's own."""

    pattern: str | None = None
    digits_apart: bool = False
    whole_words: bool = False  # a word that is in the vocabulary is taken before any merge
    compose: bool = False  # Unicode NFC


# The patterns are those of the models' own tokenizer files; the names are llama.cpp's.
_PRE = {
    "gpt-2": _Pre(),
    "smollm": _Pre(digits_apart=True),
    "llama-bpe": _Pre(
        pattern=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        whole_words=True,
    ),
    "qwen2": _Pre(
        pattern=r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        compose=True,
    ),
}


class Tokenizer:
    """Byte-level BPE over a GGUF file's `tokenizer.*` metadata. Safe to use from several threads.

    Raises ValueError for a tokenizer of another kind, naming it and the known ones.
    """

    def __init__(self, metadata: Mapping[str, object]) -> None:
        pre = _known(metadata)
        tokens = _strings(metadata, "tokenizer.ggml.tokens")
        kinds = _integers(metadata, "tokenizer.ggml.token_type")
        controls = {
            text: i
            for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
            if kind == _Kind.CONTROL and len(text) > 1  # one character cannot be broken by a MARK
        }
        literals = [t for t, kind in zip(tokens, kinds, strict=True) if kind == _Kind.USER_DEFINED]
        merges = _strings(metadata, "tokenizer.ggml.merges")
        self._bpe = _byte_level_bpe(pre, tokens, merges, controls, literals)
        self._bytes = _bytes_of(tokens, frozenset(controls), frozenset(literals))
        self.controls: Mapping[str, int] = controls
        """Control tokens by their names."""
        self._names = {token: name.encode() for name, token in controls.items()}
        self._control = re.compile("|".join(map(re.escape, controls)) or r"(?!)")
        self._control_start = re.compile(rf"(?=(?:{self._control.pattern}))(.)", re.DOTALL)
        self._beginnings = {text[:n] for text in controls for n in range(1, len(text))}
        self._longest = max(map(len, controls), default=1)

        self.vocabulary = len(tokens)
        self.bos = _token(metadata, "bos", tokens)
        self.eos = _token(metadata, "eos", tokens)
        ends = (self.eos, _token(metadata, "eot", tokens), _token(metadata, "eom", tokens))
        self.stop_tokens = frozenset(i for i, _ in filter(None, ends)) | {
            controls[text] for text in _END_OF_ANSWER if text in controls
        }
        add_bos = metadata.get("tokenizer.ggml.add_bos_token", False)
        self._prefix = [self.bos[0]] if add_bos and self.bos else []

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text; never a control token."""
        # encode_batch releases the interpreter's lock while it works, encode does not
        return self._bpe.encode_batch_fast([text])[0].ids if text else []

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a whole prompt that the client owns, markup included."""
        return self._prefix + self.encode_marked_up(text)

    def encode_marked_up(self, text: str) -> list[int]:
        """Token ids of text in which the names of control tokens stand for them.

        Where `guard` put a MARK they do not, and the MARK is left out.
        """
        ids: list[int] = []
        start = 0
        for match in self._control.finditer(text):
            ids += self.encode(text[start : match.start()].replace(MARK, ""))
            ids.append(self.controls[match[0]])
            start = match.end()
        return ids + self.encode(text[start:].replace(MARK, ""))

    def guard(self, text: str) -> str:
        """The text with a MARK inside each control token's name.

        So it stays plain text in `encode_marked_up`, wherever a template puts it. A name that the
        text only begins gets a MARK too, lest what follows completes it.
        """
        guarded = self._control_start.sub(rf"\1{MARK}", text)
        begun = any(text[-n:] in self._beginnings for n in range(1, self._longest))
        return guarded + MARK if begun else guarded

    def bytes_of(self, token: int) -> bytes:
        """What a token adds to the text; control tokens add nothing. Characters may be cut."""
        return self._bytes[token]

    def written(self, token: int) -> bytes:
        """As `bytes_of`, but a control token is written by its name."""
        return self._names.get(token) or self._bytes[token]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of which `encode_marked_up` would make these tokens, or others that read alike."""
        return b"".join(map(self.written, tokens)).decode(errors="replace")


def _known(metadata: Mapping[str, object]) -> _Pre:
    model, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    if model != "gpt2":
        raise ValueError(f"tokenizer {model!r} is not supported; supported: 'gpt2'")
    if not isinstance(pre, str) or pre not in _PRE:
        names = ", ".join(map(repr, _PRE))
        raise ValueError(f"pre-tokenizer {pre!r} is not supported; supported: {names}")
    return _PRE[pre]


def _byte_level_bpe(
    pre: _Pre,
    tokens: Sequence[str],
    merges: Sequence[str],
    controls: Mapping[str, int],
    literals: Sequence[str],
) -> tokenizers.Tokenizer:
    vocabulary = {text: i for i, text in enumerate(tokens) if text not in controls}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    bpe = tokenizers.Tokenizer(models.BPE(vocabulary, pairs, ignore_merges=pre.whole_words))
    steps: list[pre_tokenizers.PreTokenizer] = []
    if pre.digits_apart:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if pre.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(pre.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre.pattern is None))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if pre.compose:
        bpe.normalizer = normalizers.NFC()
    bpe.add_tokens([AddedToken(text, special=False, normalized=False) for text in literals])
    return bpe


def _bytes_of(
    tokens: Sequence[str], controls: frozenset[str], literals: frozenset[str]
) -> list[bytes]:
    alphabet = _byte_alphabet()

    def of(text: str) -> bytes:
        if text in controls:
            return b""
        if text in literals or not alphabet.keys() >= set(text):
            return text.encode()
        return bytes(alphabet[character] for character in text)

    return [of(text) for text in tokens]


def _byte_alphabet() -> dict[str, int]:
    """The characters by which GPT-2's vocabulary writes bytes (openai/gpt-2, src/encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    shifted = {chr(256 + i): byte for i, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


def _token(
    metadata: Mapping[str, object], name: str, tokens: Sequence[str]
) -> tuple[int, str] | None:
    key = f"tokenizer.ggml.{name}_token_id"
    token = metadata.get(key)
    if not isinstance(token, int):
        return None
    if not 0 <= token < len(tokens):
        raise ValueError(f"the model file's {key} is {token}, but its tokens are {len(tokens)}")
    return int(token), tokens[token]


def _strings(metadata: Mapping[str, object], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, Sequence) or not all(isinstance(v, str) for v in values):
        raise ValueError(f"the model file's {key} is missing or no list of strings")
    return list(values)


def _integers(metadata: Mapping[str, object], key: str) -> list[int]:
    values = metadata.get(key)
    if not isinstance(values, Sequence) or not all(isinstance(v, int) for v in values):
        raise ValueError(f"the model file's {key} is missing or no list of integers")
    return list(values)
