"""What a start leaves on disk for the next one, and what becomes of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.backends.cpu.store import Store
from gateway.replica.weights import UInt8, Weights
from tests.support.batches import in_chunks
from tests.support.tiny_model import TinyModel

DATA = np.arange(1000, dtype=np.uint8)


@pytest.fixture
def weights(tmp_path: Path) -> Weights:
    return Weights.open(TinyModel().write(tmp_path / "tiny.gguf"))


def load(weights: Weights, cache: Path | None) -> CpuBackend:
    return CpuBackend.load(weights, blocks=4, max_tokens=64, kernels="portable", cache=cache)


def logits(backend: CpuBackend) -> Float32:
    return in_chunks(backend, list(range(40)), 40)


def steps(weights: Weights, cache: Path) -> list[str]:
    """What a load with that cache has to do."""
    seen: list[tuple[str, float]] = []
    CpuBackend.load(
        weights, blocks=1, kernels="portable", cache=cache, progress=lambda *s: seen.append(s)
    )
    return [step for step, done in seen if done < 1]


def found(data: UInt8 | None) -> UInt8:
    assert data is not None
    return data


def test_what_was_written_is_read_read_only_and_begins_with_a_cache_line(tmp_path: Path) -> None:
    store = Store(tmp_path / "new" / "folder", "1")
    assert store.read("data") is None
    store.write("data", DATA)
    data = found(store.read("data"))
    assert np.array_equal(data, DATA)
    assert not data.flags.writeable
    assert data.ctypes.data % 64 == 0


def test_another_revision_is_absent_and_stays(tmp_path: Path) -> None:
    old, new = Store(tmp_path, "1"), Store(tmp_path, "2")
    old.write("data", DATA)
    assert new.read("data") is None
    new.write("data", DATA[::-1].copy())
    assert np.array_equal(found(old.read("data")), DATA)
    assert np.array_equal(found(new.read("data")), DATA[::-1])


def test_three_other_revisions_stay_those_that_were_used_last(tmp_path: Path) -> None:
    stores = [Store(tmp_path, str(n)) for n in range(5)]
    stores[0].write("other", DATA)
    for age, store in zip((400, 300, 200, 100), stores, strict=False):
        store.write("data", DATA)
        then = time.time() - age
        os.utime(tmp_path / f"data.{store.revision}", (then, then))
    found(stores[0].read("data"))
    stores[4].write("data", DATA)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["data.0", "data.2", "data.3", "data.4", "other.0"]


def test_a_revision_that_nobody_has_used_for_a_month_goes(tmp_path: Path) -> None:
    old, used, new = (Store(tmp_path, name) for name in ("old", "used", "new"))
    for store in (old, used):
        store.write("data", DATA)
        then = time.time() - 31 * 86_400
        os.utime(tmp_path / f"data.{store.revision}", (then, then))
    found(used.read("data"))
    new.write("data", DATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.new", "data.used"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda image: b"",
        lambda image: image[:30],
        lambda image: image[:-1],
        lambda image: image + b"\0",
        lambda image: image[:500] + bytes([image[500] ^ 1]) + image[501:],
        lambda image: b"another file" + image[12:],
    ],
    ids=["empty", "no header", "cut short", "too long", "one bit", "no magic"],
)
def test_a_damaged_file_counts_as_absent(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    store = Store(tmp_path, "1")
    store.write("data", DATA)
    path = tmp_path / "data.1"
    path.write_bytes(damage(path.read_bytes()))
    assert store.read("data") is None


def test_a_folder_that_cannot_be_written_costs_a_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = Store(tmp_path / "file" / "folder", "1")
    with caplog.at_level(logging.INFO):
        store.write("data", DATA)
    assert "the next start will be slower" in caplog.text
    assert store.read("data") is None


def test_a_second_load_packs_nothing_and_gives_the_same_bits(
    weights: Weights, tmp_path: Path
) -> None:
    expected = logits(load(weights, None))
    cache = tmp_path / "cache"
    assert np.array_equal(logits(load(weights, cache)), expected)
    assert "packing weights" not in steps(weights, cache)
    assert np.array_equal(logits(load(weights, cache)), expected)


def test_damaged_packed_weights_are_packed_anew(weights: Weights, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = logits(load(weights, cache))
    (path,) = cache.glob("packed-*")
    image = bytearray(path.read_bytes())
    image[-100] ^= 1
    path.write_bytes(image)
    assert np.array_equal(logits(load(weights, cache)), expected)
    assert "packing weights" not in steps(weights, cache)


def test_packed_weights_are_their_files_own(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for seed in (0, 1):
        path = TinyModel(seed=seed).write(tmp_path / "tiny.gguf")
        weights = Weights.open(path)
        assert np.array_equal(logits(load(weights, cache)), logits(load(weights, None)))


LOAD = """
import sys
from pathlib import Path
from gateway.replica.backends.cpu import KERNELS, CpuBackend
from gateway.replica.weights import Weights
weights = Weights.open(Path(sys.argv[1]))
CpuBackend.load(weights, blocks=4, kernels="portable", cache=Path(sys.argv[2]))
print(sum(KERNELS["portable"]._cache_hits.values()))
"""


@pytest.mark.prove
def test_two_processes_at_once_compile_and_a_third_finds_the_code(tmp_path: Path) -> None:
    model, cache = TinyModel().write(tmp_path / "tiny.gguf"), tmp_path / "cache"

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", LOAD, str(model), str(cache)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    both = [start(), start()]
    assert [process.communicate(timeout=300)[0].strip() for process in both] == ["0", "0"]
    third = start()
    assert third.communicate(timeout=300)[0].strip() == "1"
    (code,) = cache.glob("portable-*")
    code.write_bytes(code.read_bytes()[:-1])
    fourth = start()
    assert fourth.communicate(timeout=300)[0].strip() == "0"


def test_what_others_could_have_written_is_not_believed(tmp_path: Path) -> None:
    store = Store(tmp_path, "1")
    store.write("code", np.arange(9, dtype=np.uint8))
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o666)
    assert store.read("code") is None


def test_nor_is_what_lies_in_a_folder_that_others_can_write_to(tmp_path: Path) -> None:
    store = Store(tmp_path / "cache", "1")
    store.write("code", DATA)
    store.folder.chmod(0o777)
    assert store.read("code") is None
    store.write("code", DATA)
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert np.array_equal(found(store.read("code")), DATA)


def test_a_link_to_a_file_is_not_followed(tmp_path: Path) -> None:
    elsewhere, store = Store(tmp_path / "elsewhere", "1"), Store(tmp_path / "cache", "1")
    elsewhere.write("code", DATA)
    store.write("other", DATA)
    (store.folder / "code.1").symlink_to(elsewhere.folder / "code.1")
    assert store.read("code") is None
