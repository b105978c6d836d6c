"""A model's tensors, read onto a device: quantised ones as plain numbers, joined where they can
be multiplied at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from gguf.constants import GGMLQuantizationType
from torch import Tensor

from gateway.replica.backends.cuda.layout import Layer, Model
from gateway.replica.backends.rope import turns
from gateway.replica.weights import EMBEDDING, OUTPUT, OUTPUT_NORM, Weights


class Reader:
    def __init__(self, weights: Weights, dtype: torch.dtype, device: str) -> None:
        self._weights = weights
        self._dtype = dtype
        self._device = device

    def matrix(self, name: str) -> Tensor:
        tensor = self._weights.tensor(name)
        if tensor.kind is GGMLQuantizationType.BF16:  # NumPy has no such type
            bits = np.ascontiguousarray(tensor.data).view(np.int16)
            values = torch.from_numpy(bits.copy()).view(torch.bfloat16)
        else:
            values = torch.from_numpy(np.array(tensor.float32()))
        return values.reshape(tensor.rows, tensor.columns).to(self._device, self._dtype)

    def joined(self, *names: str) -> Tensor:
        """One under the other, without a second copy of all on the device."""
        sizes = [self._weights.tensor(name) for name in names]
        shape = (sum(each.rows for each in sizes), sizes[0].columns)
        whole = torch.empty(shape, dtype=self._dtype, device=self._device)
        for part, name in zip(whole.split([each.rows for each in sizes]), names, strict=True):
            part.copy_(self.matrix(name))
        return whole

    def vector(self, name: str) -> Tensor:
        return self.matrix(name)[0]


def load(
    weights: Weights, dtype: torch.dtype, device: str, progress: Callable[[str, float], None]
) -> Model:
    reader, layers, spec = Reader(weights, dtype, device), [], weights.spec
    for index in range(spec.layers):
        progress("reading weights", index / spec.layers)
        layers.append(_layer(reader, f"blk.{index}.", spec.qkv_bias, spec.head_norms))
    embedding = reader.matrix(EMBEDDING)
    cosines, sines = turns(np.arange(spec.context_length, dtype=np.int32), spec.rope)
    model = Model(
        spec=spec,
        embedding=embedding,
        layers=layers,
        output_norm=reader.vector(OUTPUT_NORM),
        output=embedding if spec.tied_embeddings else reader.matrix(OUTPUT),
        cosines=torch.from_numpy(cosines).to(device),
        sines=torch.from_numpy(sines).to(device),
    )
    progress("reading weights", 1.0)
    return model


def _layer(reader: Reader, block: str, qkv_bias: bool, head_norms: bool) -> Layer:
    def names(*parts: str) -> list[str]:
        return [block + part for part in parts]

    biases = names("attn_q.bias", "attn_k.bias", "attn_v.bias")
    return Layer(
        attention_norm=reader.vector(block + "attn_norm.weight"),
        qkv=reader.joined(*names("attn_q.weight", "attn_k.weight", "attn_v.weight")),
        qkv_bias=torch.cat([reader.vector(each) for each in biases]) if qkv_bias else None,
        query_norm=reader.vector(block + "attn_q_norm.weight") if head_norms else None,
        key_norm=reader.vector(block + "attn_k_norm.weight") if head_norms else None,
        attention_out=reader.matrix(block + "attn_output.weight"),
        feed_forward_norm=reader.vector(block + "ffn_norm.weight"),
        gate_up=reader.joined(*names("ffn_gate.weight", "ffn_up.weight")),
        down=reader.matrix(block + "ffn_down.weight"),
    )
