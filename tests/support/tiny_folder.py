"""Small decoders of every supported architecture, in folders like those of transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.float32]]

VOCABULARY = 300

_LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 256,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": False,
    "vocab_size": VOCABULARY,
}


@dataclass(frozen=True, slots=True)
class TinyFolder:
    """`config` stands in config.json beside or in place of a tiny Llama's values."""

    config: Mapping[str, Any] = field(default_factory=dict)
    dtype: str = "F32"
    shards: int = 1
    seed: int = 0

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            key: value for key, value in (_LLAMA | dict(self.config)).items() if value is not None
        }
        (folder / "config.json").write_text(json.dumps(config))
        arrays = dict(_arrays(config, self.seed))
        if self.shards == 1:
            write_safetensors(folder / "model.safetensors", arrays, self.dtype)
            return folder
        where: dict[str, str] = {}
        for shard in range(self.shards):
            file = f"model-{shard + 1:05}-of-{self.shards:05}.safetensors"
            mine = dict(list(arrays.items())[shard :: self.shards])
            write_safetensors(folder / file, mine, self.dtype)
            where |= dict.fromkeys(mine, file)
        index = {"metadata": {}, "weight_map": where}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
_QWEN2 = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}

ARCHITECTURES: Mapping[str, TinyFolder] = {
    "llama": TinyFolder(),
    "llama, tied, wide heads, bfloat16": TinyFolder(
        {"tie_word_embeddings": True, "head_dim": 32, "num_key_value_heads": 1}, dtype="BF16"
    ),
    "llama, linear rope, float16": TinyFolder(
        {"rope_scaling": {"type": "linear", "factor": 2.0}}, dtype="F16"
    ),
    "llama, llama3 rope": TinyFolder({"rope_scaling": _LLAMA3}),
    "llama, yarn": TinyFolder({"rope_scaling": _YARN}),
    "mistral": TinyFolder(
        {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": 256,
            "rope_theta": 1_000_000.0,
        }
    ),
    "qwen2": TinyFolder(
        _QWEN2 | {"use_sliding_window": False, "sliding_window": 16, "tie_word_embeddings": True}
    ),
    "qwen2, yarn with its own numbers": TinyFolder(
        _QWEN2
        | {"rope_scaling": _YARN | {"beta_fast": 16, "beta_slow": 2, "attention_factor": 1.3}}
    ),
    "qwen3": TinyFolder(
        {
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "head_dim": 32,
            "attention_bias": False,
            "use_sliding_window": False,
        }
    ),
}


def _arrays(config: Mapping[str, Any], seed: int) -> Iterator[tuple[str, NDArray[np.float32]]]:
    rng = np.random.default_rng(seed)
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    head_dim = config.get("head_dim", hidden // config["num_attention_heads"])
    heads, keys = (config[f"num_{key}_heads"] * head_dim for key in ("attention", "key_value"))

    def matrix(rows: int, columns: int) -> NDArray[np.float32]:
        # large enough that attention is far from flat, and a wrong position shows
        return rng.standard_normal((rows, columns), np.float32) * np.float32(2 / np.sqrt(columns))

    def norm(size: int) -> NDArray[np.float32]:
        return 1 + np.float32(0.1) * rng.standard_normal(size, np.float32)

    yield "model.embed_tokens.weight", matrix(VOCABULARY, hidden)
    yield "model.norm.weight", norm(hidden)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", matrix(VOCABULARY, hidden)
    for layer in range(config["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        yield block + "input_layernorm.weight", norm(hidden)
        yield block + "post_attention_layernorm.weight", norm(hidden)
        for name, rows in (("q", heads), ("k", keys), ("v", keys)):
            yield f"{block}self_attn.{name}_proj.weight", matrix(rows, hidden)
            if config["model_type"] == "qwen2":
                yield f"{block}self_attn.{name}_proj.bias", rng.standard_normal(rows, np.float32)
        yield block + "self_attn.o_proj.weight", matrix(hidden, heads)
        if config["model_type"] == "qwen3":
            yield block + "self_attn.q_norm.weight", norm(head_dim)
            yield block + "self_attn.k_norm.weight", norm(head_dim)
        yield block + "mlp.gate_proj.weight", matrix(inner, hidden)
        yield block + "mlp.up_proj.weight", matrix(inner, hidden)
        yield block + "mlp.down_proj.weight", matrix(hidden, inner)


def write_safetensors(path: Path, arrays: Arrays, dtype: str = "F32") -> None:
    header: dict[str, object] = {}
    parts, end = [], 0
    for name, array in arrays.items():
        match dtype:
            case "F16":
                data = array.astype(np.float16).tobytes()
            case "BF16":  # the upper half of a float32, cut off
                data = (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()
            case _:
                data = array.tobytes()
        offsets = [end, end + len(data)]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": offsets}
        parts.append(data)
        end += len(data)
    text = json.dumps({"__metadata__": {"format": "pt"}} | header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
