"""
The safetensors format: 8 bytes of size, a JSON header of that size, then the tensors' bytes.

https://github.com/huggingface/safetensors#format. Read here and not with the package of that name:
all of it is the header, and the tensors stay mapped in the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from gateway.replica.weights.container import Entry, UInt8, UnsupportedModel

_KINDS = {name: GGMLQuantizationType[name] for name in ("F32", "F16", "BF16")}
"""These have one name and one layout in both formats."""


def read_safetensors(path: Path) -> Iterator[tuple[str, Entry]]:
    """Tensors by the file's own names.

    Raises UnsupportedModel for a damaged file and for other types than floats, OSError if
    unreadable.
    """
    if path.stat().st_size < 8:
        raise UnsupportedModel(f"{path.name} is cut short: it has no header")
    image = np.memmap(path, np.uint8, mode="r")
    start = 8 + int.from_bytes(image[:8].tobytes(), "little")
    try:
        header = json.loads(image[8:start].tobytes())
        for name, info in header.items():
            if name != "__metadata__":
                first, end = info["data_offsets"]
                data = image[start + int(first) : start + int(end)]
                yield name, _entry(path, name, str(info["dtype"]), tuple(info["shape"]), data)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UnsupportedModel):
            raise
        raise UnsupportedModel(f"{path.name} is damaged or cut short: {error}") from error


def _entry(path: Path, name: str, dtype: str, shape: tuple[int, ...], data: UInt8) -> Entry:
    if dtype not in _KINDS:
        raise UnsupportedModel(f"tensor {name} is {dtype}; supported: {', '.join(_KINDS)}")
    kind = _KINDS[dtype]
    *rows, columns = shape
    size = columns * GGML_QUANT_SIZES[kind][1]
    if len(data) != prod(rows) * size:
        raise UnsupportedModel(f"{path.name} is damaged or cut short: tensor {name}")
    return Entry(kind, shape, data.reshape(prod(rows), size))
