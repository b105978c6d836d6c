"""
The GGUF format: metadata and where each tensor lies. It knows no model.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, versions 2 and 3. Read here and
not with the `gguf` package's reader, which makes several NumPy arrays per vocabulary entry: 1.8 s
for 49,152 tokens, against 0.1 s. The package still supplies the numbers of the tensor types.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFValueType

from gateway.replica.weights.container import Container, Entry, UInt8, UnsupportedModel

_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.FLOAT64: "d",
    GGUFValueType.BOOL: "?",
}


def read_gguf(path: Path) -> Container:
    """Parse the header; tensors stay in the file until they are used.

    Raises UnsupportedModel for a file that is not GGUF or is cut short, OSError if unreadable.
    """
    if path.stat().st_size == 0:
        raise UnsupportedModel(f"{path.name} is empty; expected a GGUF file")
    image = np.memmap(path, np.uint8, mode="r")
    try:
        return _parse(path, image)
    except (struct.error, UnicodeDecodeError) as error:
        raise UnsupportedModel(f"{path.name} is damaged or cut short: {error}") from error


def _parse(path: Path, image: UInt8) -> Container:
    cursor = _Cursor(image)
    if bytes(image[:4]) != b"GGUF":
        raise UnsupportedModel(f"{path.name} is not a GGUF file: it does not start with 'GGUF'")
    cursor.offset = 4
    version = cursor.unpack("I")
    if version not in (2, 3):
        raise UnsupportedModel(f"{path.name} is GGUF version {version}; versions 2 and 3 are known")
    tensor_count, pair_count = cursor.unpack("Q"), cursor.unpack("Q")
    metadata = {cursor.string(): cursor.value(cursor.unpack("I")) for _ in range(pair_count)}
    entries = [cursor.tensor_info() for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise UnsupportedModel(f"general.alignment is {alignment!r}; expected a positive integer")
    start = -(-cursor.offset // alignment) * alignment
    tensors = {e.name: _entry(path, image, start, e) for e in entries}
    # What llama.cpp's converter does to these two, and to no other that is supported.
    adjacent_pairs = metadata.get("general.architecture") in ("llama", "mistral")
    return Container(metadata, tensors, file_digest(path), adjacent_pairs)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class _TensorInfo:
    name: str
    shape: tuple[int, ...]
    kind: int
    offset: int  # bytes from the start of the data section


def _entry(path: Path, image: UInt8, start: int, info: _TensorInfo) -> Entry:
    known = {int(kind): kind for kind in GGMLQuantizationType}
    if info.kind not in known:
        raise UnsupportedModel(f"tensor {info.name} has the unknown type {info.kind}")
    kind = known[info.kind]
    values, size = GGML_QUANT_SIZES[kind]
    *rows, columns = info.shape
    if columns % values:
        raise UnsupportedModel(
            f"tensor {info.name} has rows of {columns}, no multiple of {kind.name}'s {values}"
        )
    row_bytes = columns // values * size
    begin = start + info.offset
    end = begin + prod(rows) * row_bytes
    if end > len(image):
        raise UnsupportedModel(f"{path.name} is cut short: tensor {info.name} ends at byte {end}")
    return Entry(kind, info.shape, image[begin:end].reshape(prod(rows), row_bytes))


class _Cursor:
    """Reads little-endian values one after the other."""

    def __init__(self, image: UInt8) -> None:
        self._image = image.data
        self.offset = 0

    def unpack(self, code: str) -> int:
        value: int = struct.unpack_from("<" + code, self._image, self.offset)[0]
        self.offset += struct.calcsize("<" + code)
        return value

    def string(self) -> str:
        size = self.unpack("Q")
        text = bytes(self._image[self.offset : self.offset + size])
        if len(text) < size:
            raise struct.error(f"a string of {size} bytes runs past the end")
        self.offset += size
        return text.decode()

    def value(self, kind: int) -> object:
        if kind == GGUFValueType.STRING:
            return self.string()
        if kind == GGUFValueType.ARRAY:
            item, count = self.unpack("I"), self.unpack("Q")
            return self._array(item, count)
        return self.unpack(self._code(kind))

    def _array(self, kind: int, count: int) -> list[object]:
        if kind in (GGUFValueType.STRING, GGUFValueType.ARRAY):
            return [self.value(kind) for _ in range(count)]
        layout = f"<{count}{self._code(kind)}"
        values = struct.unpack_from(layout, self._image, self.offset)
        self.offset += struct.calcsize(layout)
        return list(values)

    def _code(self, kind: int) -> str:
        for known, code in _SCALARS.items():
            if known == kind:
                return code
        raise UnsupportedModel(f"the metadata has a value of the unknown type {kind}")

    def tensor_info(self) -> _TensorInfo:
        name, dimensions = self.string(), self.unpack("I")
        shape = tuple(self.unpack("Q") for _ in range(dimensions))[::-1]
        return _TensorInfo(name, shape, self.unpack("I"), self.unpack("Q"))
