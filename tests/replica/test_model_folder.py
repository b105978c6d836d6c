"""Folders as transformers saves them; what they compute is in test_architectures.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import Regex, normalizers, pre_tokenizers

from gateway.replica.text import Tokenizer
from gateway.replica.weights import UnsupportedModel, Weights
from tests.support.tiny_folder import VOCABULARY, TinyFolder, write_safetensors
from tests.support.tiny_text import tiny_metadata

LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEXT = "Hello there, it's 1234 o'clock\n\n  and the Ca\u0301fe closes.  "


def test_shards_make_the_same_model(tmp_path: Path) -> None:
    whole = Weights.open(TinyFolder().write(tmp_path / "whole"))
    parts = Weights.open(TinyFolder(shards=3).write(tmp_path / "parts"))
    for name in ("token_embd.weight", "blk.1.attn_k.weight", "blk.0.ffn_down.weight"):
        assert np.array_equal(parts.tensor(name).float32(), whole.tensor(name).float32())


def test_the_fingerprint_changes_with_weights_and_with_the_config(tmp_path: Path) -> None:
    models = TinyFolder(), TinyFolder(seed=1), TinyFolder({"rope_theta": 20_000.0})
    found = [
        Weights.open(model.write(tmp_path / str(index))).spec.fingerprint
        for index, model in enumerate(models)
    ]
    assert len(set(found)) == 3


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "gemma3_text"}, "is 'gemma3_text'; supported: 'llama', 'mistral'"),
        ({"hidden_act": "gelu"}, "hidden_act of config.json is 'gelu'; supported: 'silu'"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config of config.json"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor .* is 0.5; supported: 1.0"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type of config.json is 'longrope'"),
        ({"rope_scaling": {"type": "linear"}}, "config.json does not state rope's 'factor'"),
        ({"num_hidden_layers": 1}, "tensor blk.1.attn_k.weight is not part of a plain decoder"),
        ({"num_hidden_layers": 3}, "tensor blk.2.attn_norm.weight is missing"),
        ({"intermediate_size": None}, "llama.feed_forward_length is None"),
    ],
)
def test_what_a_config_asks_beyond_the_kernels_is_refused_by_name(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    TinyFolder().write(tmp_path)
    path = tmp_path / "config.json"
    content = json.loads(path.read_text()) | config
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    with pytest.raises(UnsupportedModel, match=message):
        Weights.open(tmp_path)


def test_a_window_counts_only_where_it_is_switched_on(tmp_path: Path) -> None:
    def window(**config: object) -> int | None:
        folder = TinyFolder({"sliding_window": 64} | config).write(tmp_path)
        return Weights.open(folder).spec.window

    assert window(model_type="mistral") == 64
    assert window(model_type="llama", use_sliding_window=False) is None
    assert window(model_type="llama", use_sliding_window=True) == 64


def test_a_bias_that_no_kernel_adds_is_refused(tmp_path: Path) -> None:
    TinyFolder().write(tmp_path)
    bias = {"model.layers.0.self_attn.o_proj.bias": np.zeros(64, np.float32)}
    write_safetensors(tmp_path / "more.safetensors", bias)
    where = {"one": "model.safetensors", "another": "more.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    with pytest.raises(UnsupportedModel, match=r"attn_output\.bias is not part of a plain"):
        Weights.open(tmp_path)


def test_an_index_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    TinyFolder(shards=2).write(tmp_path)
    index = {"weight_map": {"a": "../model.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsupportedModel, match="which is not in the folder"):
        Weights.open(tmp_path)


@pytest.mark.parametrize("size", [4, 100, 20_000, -1])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, size: int) -> None:
    path = TinyFolder().write(tmp_path) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(UnsupportedModel, match=r"model\.safetensors is (damaged or )?cut short"):
        Weights.open(tmp_path)


def test_types_that_are_no_floats_are_refused(tmp_path: Path) -> None:
    TinyFolder(dtype="F8_E4M3").write(tmp_path)
    with pytest.raises(UnsupportedModel, match="is F8_E4M3; supported: F32, F16, BF16"):
        Weights.open(tmp_path)


def write_tokenizer(folder: Path, **parts: Any) -> tokenizers.Tokenizer:
    """tokenizer.json of the tiny vocabulary with other steps before its merges."""
    tiny = tiny_metadata()
    tokens, kinds = tiny["tokenizer.ggml.tokens"], tiny["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list)
    assert isinstance(kinds, list)
    merges = [tuple(merge.split(" ")) for merge in tiny["tokenizer.ggml.merges"]]  # type: ignore[attr-defined] # a list too
    plain = {text: i for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != 3}
    bpe = tokenizers.models.BPE(plain, merges, ignore_merges=parts.pop("ignore_merges", False))
    made = tokenizers.Tokenizer(bpe)
    for name, part in parts.items():
        setattr(made, name, part)
    content = json.loads(made.to_str())
    content["added_tokens"] = [
        {"id": i, "content": text, "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for i, (text, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind == 3
    ]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return made


def split(pattern: str) -> pre_tokenizers.PreTokenizer:
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), behavior="isolated"), byte_level]
    )


WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGITS = pre_tokenizers.Digits(individual_digits=True)


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        ({"pre_tokenizer": WORDS}, "gpt-2"),
        ({"pre_tokenizer": pre_tokenizers.Sequence([DIGITS, WORDS])}, "smollm"),
        ({"pre_tokenizer": split(LLAMA3_WORDS), "ignore_merges": True}, "llama-bpe"),
        (
            {
                "pre_tokenizer": split(LLAMA3_WORDS.replace("{1,3}", "")),
                "normalizer": normalizers.NFC(),
            },
            "qwen2",
        ),
    ],
)
def test_text_becomes_the_tokens_of_tokenizer_json(
    tmp_path: Path, parts: dict[str, Any], name: str
) -> None:
    made = write_tokenizer(TinyFolder().write(tmp_path), **parts)
    metadata = Weights.open(tmp_path).metadata
    assert metadata["tokenizer.ggml.pre"] == name
    tokenizer = Tokenizer(metadata)
    assert tokenizer.vocabulary == VOCABULARY
    assert tokenizer.encode(TEXT) == made.encode(TEXT).ids


def test_unknown_steps_before_the_merges_have_no_name(tmp_path: Path) -> None:
    write_tokenizer(TinyFolder().write(tmp_path), pre_tokenizer=split(r"\w+"))
    with pytest.raises(ValueError, match="pre-tokenizer None is not supported"):
        Tokenizer(Weights.open(tmp_path).metadata)


def test_ends_beginning_and_template_come_from_the_companions(tmp_path: Path) -> None:
    write_tokenizer(TinyFolder().write(tmp_path), pre_tokenizer=WORDS)
    tokens = tiny_metadata()["tokenizer.ggml.tokens"]
    assert isinstance(tokens, list)
    start, end = (tokens.index(text) for text in ("<|im_start|>", "<|im_end|>"))
    config = {"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps(config | {"chat_template": "in the config", "add_bos_token": True})
    )
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [end, 3]}))
    metadata = Weights.open(tmp_path).metadata
    assert metadata["tokenizer.chat_template"] == "in the config"
    tokenizer = Tokenizer(metadata)
    assert tokenizer.bos == (start, "<|im_start|>")
    assert tokenizer.eos == (end, "<|im_end|>")
    assert {end, 3} <= tokenizer.stop_tokens
    assert tokenizer.encode_prompt("a")[0] == start
    (tmp_path / "chat_template.jinja").write_text("of its own")
    assert Weights.open(tmp_path).metadata["tokenizer.chat_template"] == "of its own"


def test_damaged_tokenizer_files_are_refused(tmp_path: Path) -> None:
    TinyFolder().write(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json is no valid JSON"):
        Weights.open(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UnsupportedModel, match=r"tokenizer\.json is damaged"):
        Weights.open(tmp_path)
