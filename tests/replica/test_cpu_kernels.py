"""The parts of the compiled step against plain NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from gguf import GGMLQuantizationType

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu import elementwise
from gateway.replica.backends.cpu.affine import Affine, affine, packed, quantised
from gateway.replica.backends.cpu.backend import best_kernels
from gateway.replica.backends.cpu.dot import AVX2, PORTABLE, VNNI
from gateway.replica.backends.cpu.jit import jit_entry
from gateway.replica.backends.cpu.matmul import PANEL, SLOT, Multiply, multiplier
from gateway.replica.backends.cpu.quantise import quantise as quantise_compiled
from gateway.replica.weights import GROUP, UInt8, Weights
from tests.support.tiny_model import TinyModel

KINDS = [GGMLQuantizationType[name] for name in ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")]
FEATURES = llvm.get_host_cpu_features()


def entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """A part of the step as Python can call it."""

    @jit_entry
    def call(*arguments: Any) -> Any:
        return function(*arguments)

    return call


quantise, gate, look_up, normalise, exponential = (
    entry(part)
    for part in (
        quantise_compiled,
        elementwise.gate,
        elementwise.look_up,
        elementwise.normalise,
        elementwise.exponential,
    )
)
MULTIPLIERS = {"portable": entry(multiplier(PORTABLE))}
if FEATURES.get("avx2"):
    MULTIPLIERS["avx2"] = entry(multiplier(AVX2))
if best_kernels(FEATURES) == "vnni":
    MULTIPLIERS["vnni"] = entry(multiplier(VNNI))


@pytest.fixture(params=sorted(MULTIPLIERS))
def multiply(request: pytest.FixtureRequest) -> Multiply:
    return MULTIPLIERS[request.param]


def random_matrix(bits: int, rows: int, columns: int) -> Affine:
    rng = np.random.default_rng(bits)
    groups = (rows, columns // GROUP)
    return Affine(
        bits,
        rng.integers(0, 1 << bits, (rows, columns)).astype(np.uint8),
        rng.random(groups).astype(np.float16),
        rng.standard_normal(groups).astype(np.float16),
    )


def dense(matrix: Affine) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    scales, minima = (
        part.astype(np.float64).repeat(GROUP, axis=1) for part in (matrix.scales, matrix.minima)
    )
    return matrix.codes * scales + minima


def in_panels(x: Float32) -> UInt8:
    tokens, columns = x.shape
    panels = np.zeros(-(-tokens // PANEL) * PANEL * columns // GROUP * SLOT, np.uint8)
    quantise(x.copy(), tokens, columns, panels, 0)
    return panels


def product(multiply: Multiply, matrix: Affine, x: Float32) -> Float32:
    rows, columns = matrix.codes.shape
    out = np.zeros((-(-len(x) // PANEL) * PANEL, rows), np.float32)
    place = 0, matrix.bits, rows, columns
    multiply(packed(matrix), place, 0, rows, in_panels(x), len(x), out)
    return out[: len(x)]


@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_that_of_the_dense_matrix(multiply: Multiply, bits: int) -> None:
    matrix = random_matrix(bits, rows=48, columns=96)
    # whole numbers up to 127, so that quantised activations are exact
    x = np.random.default_rng(0).integers(-127, 128, (23, 96)).astype(np.float32)
    x[:, ::GROUP] = 127
    expected = x.astype(np.float64) @ dense(matrix).T
    np.testing.assert_allclose(product(multiply, matrix, x), expected, rtol=1e-5, atol=1e-2)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_tokens_product_has_the_same_bits_in_every_tile(multiply: Multiply, bits: int) -> None:
    matrix = random_matrix(bits, rows=32, columns=160)
    x = np.random.default_rng(1).standard_normal((37, 160), np.float32)
    alone = np.concatenate([product(multiply, matrix, x[t : t + 1]) for t in range(len(x))])
    for count in (*range(2, 18), 20, 25, 31, 32, 33, 37):
        assert np.array_equal(product(multiply, matrix, x[:count]), alone[:count])


@pytest.mark.parametrize("bits", [4, 8])
def test_all_kernels_give_the_same_bits(bits: int) -> None:
    matrix = random_matrix(bits, rows=64, columns=256)
    x = np.random.default_rng(2).standard_normal((19, 256), np.float32)
    results = [product(multiply, matrix, x) for multiply in MULTIPLIERS.values()]
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_is_looked_up_is_the_tensors_row(
    tmp_path: Path, kind: GGMLQuantizationType
) -> None:
    weights = Weights.open(TinyModel(kind=kind).write(tmp_path / "tiny.gguf"))
    tensor = weights.tensor("token_embd.weight")
    matrix = affine(tensor)
    blob, rows = packed(matrix), tensor.rows + -tensor.rows % 16
    found = np.empty((tensor.rows, tensor.columns), np.float32)
    for row in range(tensor.rows):
        look_up(blob, (0, matrix.bits, rows, tensor.columns), row, found[row])
    exact = kind.name.startswith("Q")
    # the half of a step of 8 bits, and float16's rounding of scale and minimum
    np.testing.assert_allclose(found, tensor.float32(), rtol=0, atol=0 if exact else 6e-3)


def test_quantised_weights_are_within_half_a_step() -> None:
    values = np.random.default_rng(3).standard_normal((8, 64), np.float32)
    values[0] = 0.25  # a group without a range
    steps = np.ptp(values.reshape(8, 2, GROUP), axis=-1).repeat(GROUP, axis=1) / 255
    error = np.abs(dense(quantised(values)) - values)
    assert (error <= 0.5 * steps + 4e-3).all()
    assert (error[0] == 0).all()


def test_quantised_activations_are_within_half_a_step() -> None:
    x = np.random.default_rng(4).standard_normal((3, 64), np.float32)
    x[1, :GROUP] = 0
    slots = in_panels(x).reshape(2, PANEL, SLOT)[:, :3].swapaxes(0, 1)  # [tokens, groups, SLOT]
    integers = slots[..., :GROUP].view(np.int8).astype(np.int32)
    steps, sums = np.moveaxis(np.ascontiguousarray(slots[..., GROUP:]).view(np.float32), -1, 0)
    values = (integers * steps[..., None]).reshape(x.shape)
    assert (np.abs(values - x) <= 0.501 * steps.repeat(GROUP, axis=1)).all()
    assert np.abs(integers).max() == 127
    np.testing.assert_allclose(sums, steps * integers.sum(-1), rtol=1e-6)


def test_the_exponential_is_within_2e_7_of_the_true_one() -> None:
    for x in np.linspace(-87, 88, 1001, dtype=np.float32):
        assert exponential(x) == pytest.approx(np.exp(np.float64(x)), rel=2e-7)


def test_the_gate_is_silu_even_far_out() -> None:
    x = np.array([-1e4, -90, -3, 0, 3, 90, 1e4], np.float64)
    gate_up = np.concatenate([x, np.full(len(x), 2.0)])[None].astype(np.float32)
    gate(gate_up, 1)
    with np.errstate(over="ignore"):
        expected = 2 * x / (1 + np.exp(-x))
    np.testing.assert_allclose(gate_up[0, : len(x)], expected, rtol=1e-6, atol=1e-30)


def test_normalisation_is_rms_norm() -> None:
    rng = np.random.default_rng(5)
    x, weight = rng.standard_normal((3, 64), np.float32), rng.standard_normal(64, np.float32)
    out = np.empty_like(x)
    normalise(x, weight, 1e-5, len(x), out)
    expected = x / np.sqrt((x.astype(np.float64) ** 2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_allclose(out, expected, rtol=1e-5)
