from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from gateway.replica.spec import Rope
from gateway.replica.weights import UnsupportedModel, Weights
from tests.support.tiny_model import TinyModel

KINDS = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tiny.gguf"


def with_value(path: Path, key: str, value: str | float) -> Path:
    """A copy of the tiny model's header with one more or another value, and no tensors."""
    writer = gguf.GGUFWriter(str(path), "llama")
    for name in ("block_count", "embedding_length", "feed_forward_length", "context_length"):
        writer.add_uint32(f"llama.{name}", 64)
    writer.add_uint32("llama.attention.head_count", 4)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    match value:
        case str():
            writer.add_string(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
    writer.add_tensor("token_embd.weight", np.zeros((32, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_spec_is_what_the_file_states(path: Path) -> None:
    spec = Weights.open(TinyModel(heads=4, kv_heads=2, head_dim=16).write(path)).spec
    assert (spec.architecture, spec.layers, spec.hidden) == ("llama", 2, 64)
    assert (spec.heads, spec.kv_heads, spec.head_dim) == (4, 2, 16)
    assert (spec.context_length, spec.tied_embeddings) == (256, True)
    assert spec.rope.frequencies == pytest.approx([10_000.0 ** (-i / 8) for i in range(8)])


def test_a_model_with_an_output_matrix_is_not_tied(path: Path) -> None:
    assert not Weights.open(TinyModel(tied_embeddings=False).write(path)).spec.tied_embeddings


def test_the_fingerprint_changes_with_the_weights(tmp_path: Path) -> None:
    first, second = (
        Weights.open(TinyModel(seed=seed).write(tmp_path / f"{seed}.gguf")) for seed in (0, 1)
    )
    assert first.spec.fingerprint != second.spec.fingerprint


def test_metadata_and_tensors_are_those_that_the_gguf_package_reads(path: Path) -> None:
    weights = Weights.open(TinyModel().write(path))
    reader = gguf.GGUFReader(path)
    for key, field in reader.fields.items():
        if not key.startswith("GGUF."):
            assert weights.metadata[key] == field.contents()
    for tensor in reader.tensors:
        if not tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            expected = gguf.dequantize(tensor.data, tensor.tensor_type)
            found = weights.tensor(tensor.name).float32()
            assert np.array_equal(found, expected.reshape(found.shape))


@pytest.mark.parametrize("kind", KINDS)
def test_every_supported_type_is_read_exactly(path: Path, kind: GGMLQuantizationType) -> None:
    weights = Weights.open(TinyModel(kind=kind).write(path))
    tensor = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}[
        "blk.1.ffn_up.weight"
    ]
    expected = gguf.dequantize(tensor.data, kind)
    assert np.array_equal(weights.tensor("blk.1.ffn_up.weight").float32(), expected)


def test_rows_of_queries_and_keys_are_put_half_a_head_apart(path: Path) -> None:
    weights = Weights.open(TinyModel(head_dim=16).write(path))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    for name in ("blk.0.attn_q.weight", "blk.0.attn_k.weight"):
        rows = gguf.dequantize(stored[name].data, stored[name].tensor_type)
        found = weights.tensor(name).float32()
        for pair in range(8):
            for head in range(len(rows) // 16):
                assert np.array_equal(found[head * 16 + pair], rows[head * 16 + 2 * pair])
                assert np.array_equal(found[head * 16 + pair + 8], rows[head * 16 + 2 * pair + 1])


def test_numbers_of_a_bias_go_with_their_rows(path: Path) -> None:
    weights = Weights.open(TinyModel(head_dim=16, qkv_bias=True).write(path))
    stored = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    bias, found = stored["blk.0.attn_q.bias"].data, weights.vector("blk.0.attn_q.bias")
    assert np.array_equal(found[16:24], bias[16:32:2])
    assert np.array_equal(found[24:32], bias[17:32:2])
    assert np.array_equal(weights.vector("blk.0.attn_v.bias"), stored["blk.0.attn_v.bias"].data)


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3"])
def test_rows_that_lie_half_a_head_apart_already_stay(path: Path, architecture: str) -> None:
    model = TinyModel(
        architecture,
        kind=GGMLQuantizationType.F32,
        qkv_bias=architecture == "qwen2",
        head_norms=architecture == "qwen3",
    )
    weights = Weights.open(model.write(path))
    for tensor in gguf.GGUFReader(path).tensors:
        found = weights.tensor(tensor.name).float32()
        assert np.array_equal(found, tensor.data.reshape(found.shape))
    assert weights.spec.qkv_bias == model.qkv_bias
    assert weights.spec.head_norms == model.head_norms


def test_rope_is_stretched_as_the_file_says(path: Path) -> None:
    def rope(**values: str | float) -> Rope:
        settings = {f"rope.scaling.{key}": value for key, value in values.items()}
        return Weights.open(TinyModel(settings=settings).write(path)).spec.rope

    plain = np.array(rope().frequencies)
    assert rope(type="linear", factor=4.0).frequencies == pytest.approx(plain / 4)
    yarn = rope(type="yarn", factor=4.0, original_context_length=64)
    assert yarn.frequencies[0] == plain[0]
    assert yarn.frequencies[-1] == pytest.approx(plain[-1] / 4)
    assert yarn.magnitude == pytest.approx(0.1 * np.log(4) + 1)


def test_rope_factors_of_the_file_divide_the_frequencies(path: Path) -> None:
    factors = (1.0, 1.0, 1.5, 2.0, 4.0, 8.0, 8.0, 8.0)
    plain = Weights.open(TinyModel().write(path)).spec.rope.frequencies
    found = Weights.open(TinyModel(rope_factors=factors).write(path)).spec.rope.frequencies
    assert found == pytest.approx(np.array(plain) / factors)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("general.architecture", "gemma3", "is 'gemma3'; supported: 'llama', 'mistral', "),
        ("llama.rope.scaling.type", "longrope", "type is 'longrope'; supported: 'none', 'lin"),
        ("llama.rope.dimension_count", 8, "llama.rope.dimension_count is 8; supported: 16"),
        ("llama.expert_count", 8, "llama.expert_count is 8; supported: 0"),
        ("llama.attention.head_count_kv", 3, "4 heads do not share 3 KV heads"),
        ("llama.attention.key_length", 24, "4 heads of 24; head sizes must be multiples of 16"),
        ("llama.rope.freq_base", 0.0, "llama.rope.freq_base is 0.0"),
    ],
)
def test_what_the_kernels_do_not_compute_is_refused_by_name(
    path: Path, key: str, value: str | float, message: str
) -> None:
    with pytest.raises(UnsupportedModel, match=message):
        Weights.open(with_value(path, key, value))


def test_a_tensor_type_without_kernels_is_refused(path: Path) -> None:
    kinds = {"blk.0.ffn_down.weight": GGMLQuantizationType.Q5_0}
    with pytest.raises(UnsupportedModel, match=r"blk\.0\.ffn_down\.weight is Q5_0; supported: F32"):
        Weights.open(TinyModel(kinds=kinds).write(path))


def test_sizes_that_do_not_divide_by_a_group_are_refused(path: Path) -> None:
    model = TinyModel(feed_forward=80, kind=GGMLQuantizationType.F32)
    with pytest.raises(UnsupportedModel, match="feed_forward_length is 80; expected a multiple"):
        Weights.open(model.write(path))


def test_a_tensor_of_another_shape_than_the_sizes_say_is_refused(path: Path) -> None:
    TinyModel(kind=GGMLQuantizationType.F32).write(path)
    image = path.read_bytes()
    key = b"llama.feed_forward_length"
    at = image.index(key) + len(key) + 4
    path.write_bytes(image[:at] + (64).to_bytes(4, "little") + image[at + 4 :])
    with pytest.raises(UnsupportedModel, match=r"ffn_gate\.weight is \(96, 64\); expected \(64"):
        Weights.open(path)


def test_a_tensor_that_no_plain_decoder_has_is_refused(path: Path) -> None:
    extended = replace(TinyModel(), layers=3).write(path).read_bytes()
    key = b"llama.block_count"
    at = extended.index(key) + len(key) + 4
    path.write_bytes(extended[:at] + (2).to_bytes(4, "little") + extended[at + 4 :])
    with pytest.raises(UnsupportedModel, match=r"blk\.2\.attn_k\.weight is not part of a plain"):
        Weights.open(path)


@pytest.mark.parametrize("size", [4, 40, 1000, 20_000, -1])
def test_a_file_that_is_cut_short_is_refused(path: Path, size: int) -> None:
    image = TinyModel().write(path).read_bytes()
    path.write_bytes(image[:size])
    with pytest.raises(UnsupportedModel, match=r"tiny\.gguf is (damaged or )?cut short"):
        Weights.open(path)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (b"", r"tiny\.gguf is empty"),
        (b"PK\x03\x04 a zip file", r"tiny\.gguf is not a GGUF file"),
        (b"GGUF\x01\0\0\0", "GGUF version 1; versions 2 and 3 are known"),
    ],
)
def test_a_file_that_is_no_gguf_is_refused(path: Path, image: bytes, message: str) -> None:
    path.write_bytes(image)
    with pytest.raises(UnsupportedModel, match=message):
        Weights.open(path)
