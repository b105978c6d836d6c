"""Every supported architecture against transformers: its answers are in golden/architectures.json,
and where it is installed it is asked again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from gateway.replica.backends.base import Backend, Float32
from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.backends.cpu.backend import best_kernels
from gateway.replica.backends.reference import ReferenceBackend
from gateway.replica.weights import Weights
from tests.replica.golden import make_architectures
from tests.replica.golden.make_architectures import NEW_TOKENS, PROMPT_TOKENS, prompt
from tests.support.batches import Piece, batch, divergences, in_chunks
from tests.support.tiny_folder import ARCHITECTURES

FILE = Path(__file__).parent / "golden" / "architectures.json"
GOLDEN: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
KERNELS = sorted({"portable", best_kernels(llvm.get_host_cpu_features())})
LENGTH = PROMPT_TOKENS + NEW_TOKENS


@pytest.fixture(params=ARCHITECTURES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def weights(name: str, tmp_path: Path) -> Weights:
    return Weights.open(ARCHITECTURES[name].write(tmp_path / "model"))


def reference(weights: Weights) -> ReferenceBackend:
    return ReferenceBackend.load(weights, blocks=8, max_tokens=LENGTH)


def greedy(backend: Backend) -> tuple[list[int], Float32]:
    """Tokens after the prompt, and the logits that chose the last one."""
    tokens, table = prompt(), range(8)
    last = backend.forward(batch(Piece(tokens, 0, table)))[-1]
    while len(tokens) < LENGTH:
        tokens.append(int(last.argmax()))
        if len(tokens) < LENGTH:
            last = backend.forward(batch(Piece(tokens[-1:], len(tokens) - 1, table)))[-1]
    return tokens[PROMPT_TOKENS:], last


def test_the_reference_continues_as_transformers_does(name: str, weights: Weights) -> None:
    output, last = greedy(reference(weights))
    assert output == GOLDEN[name]["output"]
    np.testing.assert_allclose(last, GOLDEN[name]["last_logits"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("kernels", KERNELS)
def test_the_kernels_stay_close_to_the_reference(weights: Weights, kernels: str) -> None:
    tokens = prompt()
    fast = CpuBackend.load(weights, blocks=8, max_tokens=LENGTH, kernels=kernels)
    expected, found = (in_chunks(each, tokens, LENGTH) for each in (reference(weights), fast))
    # Weights without structure are far more sensitive to rounding than trained ones.
    assert divergences(expected, found).mean() < 0.03
    assert (found - expected).std() < 0.08 * expected.std()


@pytest.mark.parametrize("kernels", KERNELS)
def test_chunks_and_neighbours_do_not_change_a_bit(weights: Weights, kernels: str) -> None:
    tokens, others = prompt(), prompt()[::-1]
    backend = CpuBackend.load(weights, blocks=8, max_tokens=LENGTH, kernels=kernels)
    expected = in_chunks(backend, tokens, LENGTH)
    for size in (1, 7, 16):
        assert np.array_equal(in_chunks(backend, tokens, size), expected)
    together = backend.forward(batch(Piece(others, 0, [7, 0, 5]), Piece(tokens, 0, [6, 2, 1])))
    assert np.array_equal(together[len(others) :], expected)


@pytest.mark.prove
def test_transformers_still_makes_the_golden_file() -> None:
    made: dict[str, Any] = make_architectures.make()
    assert made.keys() == GOLDEN.keys()
    for each, case in made.items():
        assert case["output"] == GOLDEN[each]["output"]
        expected = GOLDEN[each]["last_logits"]
        np.testing.assert_allclose(case["last_logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.prove
def test_a_folder_that_transformers_saves_has_transformers_logits(
    name: str, tmp_path: Path
) -> None:
    model = make_architectures.load(ARCHITECTURES[name].write(tmp_path / "ours"))
    model.save_pretrained(tmp_path / "theirs")
    tokens = prompt() + GOLDEN[name]["output"]
    backend = reference(Weights.open(tmp_path / "theirs"))
    found = in_chunks(backend, tokens, LENGTH)
    assert np.abs(found - make_architectures.logits(model, tokens)).max() < 1e-4
