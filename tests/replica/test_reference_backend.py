from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gateway import models
from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.backends.reference import ReferenceBackend
from gateway.replica.weights import Weights
from tests.replica.golden.cases import FILE, Case, cases
from tests.support.batches import Piece, batch, in_chunks
from tests.support.tiny_model import TinyModel

BLOCKS_PER_CASE = 9


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ReferenceBackend:
    path = TinyModel().write(tmp_path_factory.mktemp("models") / "tiny.gguf")
    return ReferenceBackend.load(Weights.open(path), blocks=32, max_tokens=128)


def greedy(backend: ReferenceBackend, prompts: list[Case], count: int) -> list[list[int]]:
    """Continue all prompts together."""
    tables = [
        range(row * BLOCKS_PER_CASE, (row + 1) * BLOCKS_PER_CASE) for row in range(len(prompts))
    ]
    outputs: list[list[int]] = []
    for case, table in zip(prompts, tables, strict=True):
        logits = backend.forward(batch(Piece(case.prompt, 0, table)))
        outputs.append([int(logits[-1].argmax())])
    for step in range(count - 1):
        logits = backend.forward(
            batch(
                *(
                    Piece(output[-1:], len(case.prompt) + step, table)
                    for case, output, table in zip(prompts, outputs, tables, strict=True)
                )
            )
        )
        for output, row in zip(outputs, logits, strict=True):
            output.append(int(row.argmax()))
    return outputs


def test_it_continues_every_golden_prompt_as_transformers_does() -> None:
    golden = cases()
    weights = Weights.open(models.find("smollm2"))
    backend = ReferenceBackend.load(weights, blocks=len(golden) * BLOCKS_PER_CASE)
    outputs = greedy(backend, golden, len(golden[0].output))
    for case, output in zip(golden, outputs, strict=True):
        assert output == list(case.output), case.text


@pytest.mark.parametrize("size", [1, 7, 16])
def test_chunks_give_the_logits_of_the_whole_prompt(tiny: ReferenceBackend, size: int) -> None:
    tokens = list(range(40))
    whole = in_chunks(tiny, tokens, len(tokens))
    np.testing.assert_allclose(in_chunks(tiny, tokens, size), whole, atol=1e-4)


def test_neighbours_and_block_ids_do_not_change_the_logits(tiny: ReferenceBackend) -> None:
    tokens, others = list(range(40)), list(range(100, 20, -2))
    alone = in_chunks(tiny, tokens, len(tokens))
    together = tiny.forward(batch(Piece(others, 0, [3, 9, 30]), Piece(tokens, 0, [31, 2, 17])))
    np.testing.assert_allclose(together[len(others) :], alone, atol=1e-4)


def test_a_batch_that_reaches_outside_is_refused(tiny: ReferenceBackend) -> None:
    with pytest.raises(ValueError, match="tables of a batch must be from 0 to 31"):
        tiny.forward(batch(Piece([1], 0, [32])))
    with pytest.raises(ValueError, match="positions of a batch must be from 0 to 15"):
        tiny.forward(batch(Piece([1], BLOCK_SIZE, [0])))


@pytest.mark.prove
def test_transformers_still_makes_the_golden_file() -> None:
    from tests.replica.golden.make_golden import make

    golden = json.loads(FILE.read_text(encoding="utf-8"))
    made = make(models.find("smollm2"))
    assert made["model_sha256"] == golden["model_sha256"]
    assert made["cases"] == golden["cases"]


def test_progress_runs_from_0_to_1(tmp_path: Path) -> None:
    seen: list[float] = []
    weights = Weights.open(TinyModel().write(tmp_path / "tiny.gguf"))
    ReferenceBackend.load(weights, blocks=1, progress=lambda step, done: seen.append(done))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
