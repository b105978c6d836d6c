from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import models
from gateway.replica.backends.cuda.memory import HEADROOM, DoesNotFit, Needs, parameters
from gateway.replica.spec import ModelSpec, Rope
from gateway.replica.weights import Weights
from tests.support.tiny_folder import ARCHITECTURES

GIB = 2**30
EIGHT_B = ModelSpec(  # the shape of Llama 3.1 8B
    architecture="llama",
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    feed_forward=14_336,
    vocabulary=128_256,
    context_length=131_072,
    rope=Rope((1.0,) * 64),
    norm_epsilon=1e-5,
    tied_embeddings=False,
    fingerprint="8b",
)


def needs(spec: ModelSpec = EIGHT_B) -> Needs:
    return Needs.of(spec, itemsize=2, max_tokens=2048, max_rows=256)


def test_the_8b_shape_takes_what_is_known_of_it() -> None:
    assert parameters(EIGHT_B) == 8_030_261_248
    assert needs().block == 16 * 131_072  # 128 KiB a token
    assert 15 * GIB < needs().weights < 15.1 * GIB


def test_smollm2_has_as_many_numbers_as_its_file() -> None:
    assert parameters(Weights.open(models.find("smollm2")).spec) == 134_515_008


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_number_of_a_file_is_counted(name: str, tmp_path: Path) -> None:
    weights = Weights.open(ARCHITECTURES[name].write(tmp_path))
    entries = weights._container.tensors.items()
    held = sum(_size(entry.shape) for tensor, entry in entries if tensor != "rope_freqs.weight")
    assert parameters(weights.spec) == held


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for each in shape:
        size *= each
    return size


def test_what_is_left_of_the_free_memory_is_for_kv() -> None:
    blocks = needs().blocks("m", 80 * GIB, 0.9, None)
    used = needs().weights + needs().step + HEADROOM + blocks * needs().block
    assert 0 <= 72 * GIB - used < needs().block
    assert needs().blocks("m", 40 * GIB, 0.9, None) < blocks


def test_what_was_asked_for_is_taken_and_no_more() -> None:
    assert needs().blocks("m", 80 * GIB, 0.9, 1024) == 1024


def test_a_model_that_does_not_fit_is_named_with_what_it_takes() -> None:
    with pytest.raises(DoesNotFit) as caught:
        needs().blocks("llama-8b", 16 * GIB, 0.9, None)
    told = str(caught.value)
    assert told.startswith("llama-8b does not fit: weights take 16,")
    weights = int(re.findall(r"weights take ([\d,]+) bytes", told)[0].replace(",", ""))
    assert weights == needs().weights
    assert "16 tokens of KV 2,097,152 bytes" in told
    assert "of the device's free 17,179,869,184 bytes (16.00 GiB), 90% may be used" in told


def test_a_cache_that_does_not_fit_is_named_by_its_tokens() -> None:
    with pytest.raises(DoesNotFit, match=r"1600000 tokens of KV 209,715,200,000 bytes"):
        needs().blocks("m", 80 * GIB, 0.9, 100_000)


def test_tied_embeddings_are_counted_once() -> None:
    tied = parameters(replace(EIGHT_B, tied_embeddings=True))
    assert parameters(EIGHT_B) - tied == 128_256 * 4096
