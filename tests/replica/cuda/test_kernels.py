"""Our Triton kernels in Triton's interpreter, beside NumPy in float64."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gateway.replica.backends.base import Draws
from gateway.replica.backends.reference import ReferenceBackend
from gateway.replica.engine import Engine
from gateway.replica.sampling import Sampling
from gateway.replica.truncation import draw
from gateway.replica.weights import Weights
from tests.support.batches import Piece, batch, in_chunks
from tests.support.callers import Caller
from tests.support.on_torch import load
from tests.support.tiny_folder import ARCHITECTURES

pytestmark = pytest.mark.prove

Array = NDArray[np.float32]


def ops(*, deterministic: bool = False) -> Any:
    from gateway.replica.backends.cuda.fused import TritonOps

    return TritonOps(deterministic=deterministic)


def tensor(values: Any) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(values))


def normal(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize(("rows", "columns"), [(1, 64), (3, 576), (5, 100)])
@pytest.mark.parametrize("adds", [True, False])
def test_norms_add_first(rows: int, columns: int, adds: bool) -> None:
    x, addend, weight = normal(0, rows, columns), normal(1, rows, columns), normal(2, columns)
    residual = tensor(x.copy())
    found = ops().normalise(residual, tensor(addend) if adds else None, tensor(weight), 1e-5)
    summed = x + addend if adds else x
    wide = summed.astype(np.float64)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
    np.testing.assert_array_equal(residual.numpy(), summed)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("columns", [32, 1024, 1500])
def test_the_gate_is_silu_times_up(columns: int) -> None:
    gate_up = 4 * normal(0, 2, 2 * columns)
    opened, up = gate_up.astype(np.float64)[:, :columns], gate_up[:, columns:]
    expected = opened / (1 + np.exp(-opened)) * up
    np.testing.assert_allclose(ops().gate(tensor(gate_up)).numpy(), expected, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("rows", "outputs", "inputs"), [(1, 64, 64), (3, 70, 96), (65, 40, 130)])
@pytest.mark.parametrize("biased", [True, False])
def test_fixed_tiles_multiply(rows: int, outputs: int, inputs: int, biased: bool) -> None:
    x, matrix, bias = normal(0, rows, inputs), normal(1, outputs, inputs), normal(2, outputs)
    found = ops(deterministic=True).linear(
        tensor(x), tensor(matrix), tensor(bias) if biased else None
    )
    expected = x.astype(np.float64) @ matrix.T.astype(np.float64) + (bias if biased else 0)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.fixture
def tiles_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums every element of a tile in the same order, whichever row it is in. The interpreter asks
    NumPy for a tile's product, whose libraries take rows at an edge another way."""

    def product(a: Array, b: Array, dtype: Any = None) -> Array:
        result: Array = np.einsum("mk,kn->mn", a, b, dtype=dtype)
        return result

    monkeypatch.setattr(np, "matmul", product)


@pytest.mark.usefixtures("tiles_of_a_gpu")
def test_fixed_tiles_give_a_row_the_same_bits_in_any_company() -> None:
    x, matrix = normal(0, 70, 96), tensor(normal(1, 70, 96))
    multiply = ops(deterministic=True).linear
    whole = multiply(tensor(x), matrix).numpy()
    for first, last in ((0, 1), (7, 12), (60, 70)):
        alone = multiply(tensor(x[first:last]), matrix).numpy()
        assert np.array_equal(alone, whole[first:last])


class Paged:
    """Sequences of these lengths in a pool whose blocks lie in no order, as the kernels take it."""

    def __init__(self, lengths: list[int], kv_heads: int, dim: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        width = -(-max(lengths) // 16)
        blocks = width * len(lengths) + 1
        self.tables = rng.permutation(blocks)[: width * len(lengths)].astype(np.int32)
        self.tables = self.tables.reshape(len(lengths), width)
        shape = (1, blocks, kv_heads, 16, dim)
        self.keys, self.values = normal(seed + 1, *shape), normal(seed + 2, *shape)
        self.lengths = lengths
        self.pool = SimpleNamespace(keys=tensor(self.keys), values=tensor(self.values))
        rows = np.arange(len(lengths), dtype=np.int32)
        self.step = SimpleNamespace(
            positions=tensor(np.array(lengths, np.int32) - 1),
            rows=tensor(rows),
            tables=tensor(self.tables.reshape(-1)),
            width=tensor(np.array([width], np.int32)),
            singles=tensor(rows),
            spans=[],
        )

    def expected(self, queries: Array) -> NDArray[np.float64]:
        shared = queries.shape[1] // self.keys.shape[2]
        results = []
        for query, table, length in zip(queries, self.tables, self.lengths, strict=True):
            keys, values = (
                part[0, table].swapaxes(0, 1).reshape(part.shape[2], -1, part.shape[-1])
                for part in (self.keys, self.values)
            )
            keys, values = (
                part[:, :length].repeat(shared, axis=0).astype(np.float64)
                for part in (keys, values)
            )
            scores = np.einsum("hd,hnd->hn", query, keys) / np.sqrt(query.shape[-1])
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            results.append(np.einsum("hn,hnd->hd", weights, values))
        return np.array(results)


@pytest.mark.parametrize("programs", [1, 32], ids=["whole", "split"])
@pytest.mark.parametrize(
    ("lengths", "heads", "kv_heads", "dim"),
    [
        ([1], 1, 1, 16),
        ([16, 17, 15], 2, 2, 32),
        ([64, 65, 1], 3, 1, 64),
        ([200, 3], 8, 2, 16),
        ([130], 7, 1, 80),
        ([90, 40], 32, 2, 16),
    ],
)
def test_attention_over_the_paged_pool(
    lengths: list[int],
    heads: int,
    kv_heads: int,
    dim: int,
    programs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gateway.replica.backends.cuda.fused.PROGRAMS", programs)
    paged = Paged(lengths, kv_heads, dim)
    queries = normal(9, len(lengths), heads, dim)
    found = ops().attend(tensor(queries), paged.pool, 0, paged.step)
    expected = paged.expected(queries).reshape(len(lengths), -1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=2e-6)


@pytest.mark.usefixtures("tiles_of_a_gpu")
def test_deterministic_attention_has_the_same_bits_in_any_company() -> None:
    lengths = [90, 33, 7, 130]
    paged = Paged(lengths, 2, 32)
    queries = tensor(normal(9, len(lengths), 4, 32))
    attend = ops(deterministic=True).attend
    whole = attend(queries, paged.pool, 0, paged.step).numpy()
    for index in range(len(lengths)):
        mine = slice(index, index + 1)
        alone = SimpleNamespace(
            **vars(paged.step)
            | {"positions": paged.step.positions[mine], "rows": paged.step.rows[mine]}
        )
        assert np.array_equal(attend(queries[mine], paged.pool, 0, alone).numpy(), whole[mine])


def drawn(logits: Array, temperatures: list[float], noises: list[float]) -> list[int]:
    both = (tensor(np.array(each, np.float32)) for each in (temperatures, noises))
    tokens: list[int] = ops().draw(tensor(logits), *both).tolist()
    return tokens


@pytest.mark.parametrize("vocabulary", [50, 4096, 9000])
def test_draws_are_the_samplers(vocabulary: int) -> None:
    logits = 3 * normal(0, 6, vocabulary)
    temperatures = [0, 0.5, 1, 1.5, 1, 1]
    noises = [0.3, 0.1, 0.5, 0.99, 0, float(np.nextafter(np.float32(1), np.float32(0)))]
    expected = [
        int(row.argmax())
        if not temperature
        else draw(np.exp((row - row.max()) / np.float32(temperature)), float(np.float32(noise)))
        for row, temperature, noise in zip(logits, temperatures, noises, strict=True)
    ]
    found = drawn(logits, temperatures, noises)
    assert found[:5] == expected[:5]
    assert 0 <= found[5] < vocabulary  # the very end: rounding decides


def test_of_equal_logits_the_first_is_likeliest() -> None:
    logits = np.zeros((1, 9000), np.float32)
    logits[0, [4100, 4200, 8999]] = 5
    assert drawn(logits, [0], [0]) == [4100]


def test_masked_tokens_are_not_drawn() -> None:
    logits = np.full((2, 9000), -np.inf, np.float32)
    logits[0, 5000], logits[1, 3] = 1, -2
    assert drawn(logits, [1, 1], [0.999, 0]) == [5000, 3]


@pytest.mark.parametrize("strange", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 1])
def test_logits_that_are_not_finite_give_no_token(strange: float, temperature: float) -> None:
    logits = normal(0, 3, 9000)
    logits[1, 8000] = strange
    found = drawn(logits, [temperature] * 3, [0.5] * 3)
    assert found[1] == -1
    assert min(found[0], found[2]) >= 0
    nothing = np.full((1, 9000), -np.inf, np.float32)
    assert drawn(nothing, [temperature], [0.5]) == [-1]


@pytest.fixture
def few_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two splits: the interpreter takes its time for each program."""
    monkeypatch.setattr("gateway.replica.backends.cuda.fused.PROGRAMS", 4)
    monkeypatch.setattr("gateway.replica.backends.cuda.fused.FIXED_SPLITS", 2)


@pytest.mark.usefixtures("few_programs")
@pytest.mark.parametrize("name", ["llama, yarn", "qwen2", "qwen3"])
def test_a_step_of_kernels_gives_the_references_logits(name: str, tmp_path: Path) -> None:
    weights = Weights.open(ARCHITECTURES[name].write(tmp_path / "model"))
    tokens = np.random.default_rng(7).integers(0, weights.spec.vocabulary, 20).tolist()
    reference = ReferenceBackend.load(weights, blocks=8, max_tokens=32)
    backend = load(weights, kernels="triton", max_tokens=32, blocks=8, max_rows=2)
    expected = in_chunks(reference, tokens, 20)
    found = backend.forward(batch(Piece(tokens[:17], 0, [3, 1])))
    np.testing.assert_allclose(found, expected[:17], atol=1e-4)
    # one by one, by what stands for graphs; and beside another one, padded
    for at in (17, 18):
        single = Piece(tokens[at : at + 1], at, [3, 1])
        np.testing.assert_allclose(backend.forward(batch(single)), expected[at : at + 1], atol=1e-4)
    other = Piece(tokens[:1], 0, [5])
    both = backend.forward(batch(other, Piece(tokens[19:], 19, [3, 1])))
    np.testing.assert_allclose(both, expected[[0, 19]], atol=1e-4)


@pytest.mark.usefixtures("few_programs", "tiles_of_a_gpu")
def test_deterministic_steps_have_the_same_bits_however_they_are_cut(tmp_path: Path) -> None:
    weights = Weights.open(ARCHITECTURES["qwen3"].write(tmp_path / "model"))
    tokens = list(range(3, 15))
    options = {"kernels": "triton", "deterministic": True, "max_tokens": 16, "max_rows": 2}
    backend = load(weights, blocks=8, **options)
    whole = in_chunks(backend, tokens, 12)
    np.testing.assert_allclose(
        whole, in_chunks(ReferenceBackend.load(weights, blocks=8), tokens, 12), atol=1e-4
    )
    assert np.array_equal(in_chunks(backend, tokens, 5, [6]), whole)
    beside = backend.forward(batch(Piece([9, 8], 0, [2]), Piece(tokens, 0, [4])))
    assert np.array_equal(beside[2:], whole)
    backend.forward(batch(Piece(tokens[:11], 0, [1])))
    single = backend.forward(batch(Piece([7], 0, [3]), Piece(tokens[11:], 11, [1])))
    assert np.array_equal(single[1:], whole[11:])


@pytest.mark.usefixtures("few_programs")
def test_tokens_stay_on_the_device_from_step_to_step(tmp_path: Path) -> None:
    weights = Weights.open(ARCHITECTURES["llama"].write(tmp_path / "model"))
    reference = Engine(ReferenceBackend.load(weights, blocks=8, max_tokens=32), chunk_tokens=32)
    backend = load(weights, kernels="triton", max_tokens=32, blocks=8, max_rows=2)
    answers = []
    for engine in (reference, Engine(backend, max_running=2, chunk_tokens=32)):
        callers = [
            Caller((5, 6, 7), Sampling(temperature=0, max_tokens=4)),
            Caller((8, 9), Sampling(temperature=0.8, seed=3, max_tokens=3)),
        ]
        for caller in callers:
            caller.submit(engine)
        while engine.step():
            engine.check_integrity()
        answers.append([caller.tokens for caller in callers])
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("few_programs")
def test_a_launched_step_reads_what_the_one_before_it_drew(tmp_path: Path) -> None:
    weights = Weights.open(ARCHITECTURES["llama"].write(tmp_path / "model"))
    backend = load(weights, kernels="triton", max_tokens=32, blocks=8, max_rows=2)
    greedy = Draws(np.zeros(1, np.float32), np.zeros(1, np.float32))
    first = backend.launch(batch(Piece([5], 0, [0])), greedy)
    (token,) = first.tokens()
    known = in_chunks(backend, [5, token], 2, [3])[-1]
    unknown = batch(Piece([0], 1, [0]))
    drawn_before = type(unknown)(
        unknown.tokens,
        unknown.positions,
        unknown.rows,
        unknown.tables,
        unknown.logits_at,
        np.zeros(1, np.int32),
    )
    backend.launch(batch(Piece([5], 0, [0])), greedy).tokens()
    (second,) = backend.launch(drawn_before, greedy).tokens()
    assert second == int(known.argmax())
