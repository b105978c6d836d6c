"""The tokenizer's files of a folder (tokenizer.json and its companions), in GGUF's keys."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway.replica.weights.container import UnsupportedModel

_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
"""`tokenizer.ggml.token_type`, from the GGUF specification."""

_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_PRE_OF_PATTERN = {_WORDS % r"\p{N}{1,3}": "llama-bpe", _WORDS % r"\p{N}": "qwen2"}
"""llama.cpp's names of the patterns that split text before merges."""

_ENDS = ("eos", "eot", "eom")
"""GGUF has keys for three tokens that end an answer."""

Files = Mapping[str, Any]


def read_tokenizer(folder: Path, vocabulary: int) -> dict[str, object]:
    """`tokenizer.*` of GGUF, with `vocabulary` tokens; what the folder lacks is left out.

    Raises UnsupportedModel when a file is damaged. Whether the kind is known, the reader of these
    keys decides: a pre-tokenizer without a name of llama.cpp's has none here.
    """
    if not (folder / "tokenizer.json").is_file():
        return {}
    files = {name: _read(folder / f"{name}.json") for name in _FILES}
    try:
        ids = _ids(files["tokenizer"])
        metadata = _tables(files["tokenizer"], ids, vocabulary) | _special(files, ids)
    except (KeyError, TypeError, AttributeError) as error:
        raise UnsupportedModel(f"tokenizer.json is damaged: {error!r}") from error
    if template := _template(folder, files["tokenizer_config"]):
        metadata["tokenizer.chat_template"] = template
    return metadata


_FILES = ("tokenizer", "tokenizer_config", "generation_config")


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()) if path.is_file() else {}
    except ValueError as error:
        raise UnsupportedModel(f"{path.name} is no valid JSON: {error}") from error
    return content if isinstance(content, dict) else {}


def _ids(tokenizer: Files) -> dict[str, int]:
    added = {token["content"]: token["id"] for token in tokenizer.get("added_tokens", [])}
    return dict(tokenizer["model"]["vocab"]) | added


def _tables(tokenizer: Files, ids: Mapping[str, int], vocabulary: int) -> dict[str, object]:
    model = tokenizer["model"]
    byte_level = model["type"] == "BPE" and not model.get("byte_fallback")
    size = max(vocabulary, max(ids.values()) + 1)
    tokens = [f"[PAD{i}]" for i in range(size)]  # an embedding may have rows that no token uses
    kinds = [_UNUSED] * size
    for text, i in ids.items():
        tokens[i], kinds[i] = text, _NORMAL
    for token in tokenizer.get("added_tokens", []):
        kinds[token["id"]] = _CONTROL if token["special"] else _USER_DEFINED
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2" if byte_level else model["type"],
        "tokenizer.ggml.pre": _pre(tokenizer),
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": merges,
    }


def _pre(tokenizer: Files) -> str | None:
    """llama.cpp's name for what happens before merges; None: it is none of those known here."""
    pre = tokenizer.get("pre_tokenizer") or {}
    steps = [_step(step) for step in pre.get("pretokenizers", [pre])]
    composes = (tokenizer.get("normalizer") or {}).get("type") == "NFC"
    whole_words = bool(tokenizer["model"].get("ignore_merges"))
    match steps:
        case ["words"] if not composes and not whole_words:
            return "gpt-2"
        case ["digits", "words"] if not composes and not whole_words:
            return "smollm"
        case [str(pattern), "bytes"]:
            name = _PRE_OF_PATTERN.get(pattern)
            if (composes, whole_words) == (name == "qwen2", name == "llama-bpe"):
                return name
    return None


def _step(step: Files) -> str | None:
    match step:
        case {"type": "ByteLevel", "add_prefix_space": False, **rest}:
            return "words" if rest.get("use_regex", True) else "bytes"
        case {"type": "Digits", "individual_digits": True}:
            return "digits"
        case {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}:
            return str(pattern)
    return None


def _special(files: Mapping[str, Files], ids: Mapping[str, int]) -> dict[str, object]:
    def token(name: str) -> int | None:
        content = files["tokenizer_config"].get(name)
        return ids.get(str(content["content"] if isinstance(content, dict) else content))

    bos, ends = token("bos_token"), files["generation_config"].get("eos_token_id")
    known = [token("eos_token"), *(ends if isinstance(ends, list) else [ends])]
    unique = list(dict.fromkeys(end for end in known if end is not None))
    if len(unique) > len(_ENDS):
        raise UnsupportedModel(f"{len(unique)} tokens end an answer; supported: {len(_ENDS)}")
    values = dict(zip(_ENDS, unique, strict=False))
    if bos is not None:
        values["bos"] = bos
    metadata: dict[str, object] = {
        f"tokenizer.ggml.{name}_token_id": value for name, value in values.items()
    }
    return metadata | {"tokenizer.ggml.add_bos_token": _adds_bos(files, bos)}


def _adds_bos(files: Mapping[str, Files], bos: int | None) -> bool:
    """By its own setting, or by the template of tokenizer.json that says what stands in front."""
    stated = files["tokenizer_config"].get("add_bos_token")
    if stated is not None:
        return bool(stated)
    after = files["tokenizer"].get("post_processor") or {}
    for step in after.get("processors", [after]):
        for name in step.get("single", [])[:1] if step.get("type") == "TemplateProcessing" else []:
            special = name.get("SpecialToken", {}).get("id")
            return special is not None and bos in step["special_tokens"][special]["ids"]
    return False


def _template(folder: Path, config: Files) -> str | None:
    """A file of its own, or in tokenizer_config.json: one text, or several of which one is
    the default."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {each["name"]: each["template"] for each in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
