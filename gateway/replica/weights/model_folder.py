"""
A folder as transformers saves a model: config.json, *.safetensors, the tokenizer's files.

Everything is told in GGUF's keys and by llama.cpp's names, so that only this file knows others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGMLQuantizationType

from gateway.replica.weights.container import Container, Entry, UInt8, UnsupportedModel
from gateway.replica.weights.gguf_file import file_digest
from gateway.replica.weights.metadata import EMBEDDING, OUTPUT, ROPE_FACTORS
from gateway.replica.weights.rope_scaling import llama3_factors, plain, yarn_magnitude
from gateway.replica.weights.safetensors import read_safetensors
from gateway.replica.weights.tokenizer_files import read_tokenizer

_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}

_SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "intermediate_size": "feed_forward_length",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
}

_ONLY = {"hidden_act": "silu", "quantization_config": None, "partial_rotary_factor": 1.0}
"""Settings that change the arithmetic, with the one value that the kernels compute."""

Config = Mapping[str, Any]


def read_folder(folder: Path) -> Container:
    """Raises UnsupportedModel, naming what was found, and OSError if a file is unreadable."""
    config = read_json(folder / "config.json")
    files = _weight_files(folder)
    tensors = dict(_tensors(files, config))
    metadata = _metadata(config, tensors)
    vocabulary = tensors[EMBEDDING].shape[0] if EMBEDDING in tensors else 0
    metadata |= read_tokenizer(folder, vocabulary)
    digest = hashlib.sha256()
    for path in (folder / "config.json", *files):
        digest.update(file_digest(path).encode())
    return Container(metadata, tensors, digest.hexdigest(), adjacent_pairs=False)


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnsupportedModel(f"{path.name} is no valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise UnsupportedModel(f"{path.name} is no JSON object")
    return content


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return [folder / "model.safetensors"]
    names = sorted(set(read_json(index).get("weight_map", {}).values()))
    if strange := [name for name in names if Path(name).name != name]:
        raise UnsupportedModel(f"{index.name} names {strange[0]!r}, which is not in the folder")
    return [folder / name for name in names]


def _tensors(files: list[Path], config: Config) -> Iterator[tuple[str, Entry]]:
    for path in files:
        for name, entry in read_safetensors(path):
            ours = _our_name(name)
            tied = ours == OUTPUT and config.get("tie_word_embeddings", False)
            if not tied and not name.endswith(".rotary_emb.inv_freq"):
                yield ours, entry


def _our_name(name: str) -> str:
    """A name that no supported decoder has stays as it is, to be refused by it."""
    stem, _, kind = name.rpartition(".")
    if found := re.fullmatch(r"model\.layers\.(\d+)\.(.+)", stem):
        layer, part = found.groups()
        return f"blk.{layer}.{_NAMES[part]}.{kind}" if part in _NAMES else name
    return f"{_NAMES[stem]}.{kind}" if stem in _NAMES else name


def _metadata(config: Config, tensors: dict[str, Entry]) -> dict[str, object]:
    for key, value in _ONLY.items():
        if config.get(key, value) != value:
            raise UnsupportedModel(f"{key} of config.json is {config[key]!r}; supported: {value!r}")
    architecture = config.get("model_type")
    values = {ours: config[key] for key, ours in _SIZES.items() if config.get(key) is not None}
    # Qwen's files name a window that `use_sliding_window` switches off; Mistral's know no switch.
    if config.get("sliding_window") and config.get("use_sliding_window", architecture == "mistral"):
        values["attention.sliding_window"] = config["sliding_window"]
    values |= _rope(config, tensors)
    metadata: dict[str, object] = {f"{architecture}.{key}": each for key, each in values.items()}
    return metadata | {"general.architecture": architecture}


def _rope(config: Config, tensors: dict[str, Entry]) -> dict[str, object]:
    """transformers 5 keeps all of it in `rope_parameters`, 4 in two places."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    base = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    values: dict[str, object] = {"rope.freq_base": base}
    kind = rope.get("rope_type", rope.get("type", "default"))
    try:
        match kind:
            case "default":
                return values
            case "linear":
                scaling: dict[str, object] = {"factor": float(rope["factor"])}
            case "yarn":
                scaling = _yarn(rope, config)
            case "llama3":
                tensors[ROPE_FACTORS] = _llama3(base, rope, config)
                return values
            case _:
                raise UnsupportedModel(
                    f"rope_type of config.json is {kind!r}; "
                    "supported: 'default', 'linear', 'llama3', 'yarn'"
                )
    except KeyError as error:
        raise UnsupportedModel(f"config.json does not state rope's {error}") from error
    scaling["type"] = kind
    return values | {f"rope.scaling.{key}": value for key, value in scaling.items()}


def _yarn(rope: Config, config: Config) -> dict[str, object]:
    if rope.get("truncate", True) is not True:
        raise UnsupportedModel("truncate of config.json's rope is false; supported: true")
    factor = float(rope["factor"])
    magnitude = rope.get("attention_factor")
    if magnitude is None:
        magnitude = yarn_magnitude(factor)
        if rope.get("mscale") and rope.get("mscale_all_dim"):
            raise UnsupportedModel("config.json's rope has mscale and mscale_all_dim")
    return {
        "factor": factor,
        "original_context_length": int(
            rope.get("original_max_position_embeddings") or config["max_position_embeddings"]
        ),
        "yarn_beta_fast": float(rope.get("beta_fast") or 32),
        "yarn_beta_slow": float(rope.get("beta_slow") or 1),
        "attn_factor": float(magnitude) / yarn_magnitude(factor),
    }


def _llama3(base: float, rope: Config, config: Config) -> Entry:
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    factors = llama3_factors(
        plain(base, head_dim),
        float(rope["factor"]),
        float(rope["low_freq_factor"]),
        float(rope["high_freq_factor"]),
        int(rope["original_max_position_embeddings"]),
    )
    data: UInt8 = factors.astype(np.float32)[None].view(np.uint8)
    return Entry(GGMLQuantizationType.F32, (head_dim // 2,), data)
