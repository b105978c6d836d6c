"""Which backend `auto` takes, and what is said where there is no GPU: with torch or without it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from gateway.replica.backends.cpu import CpuBackend
from gateway.replica.backends.cuda import start
from gateway.replica.backends.cuda.memory import DoesNotFit
from gateway.replica.main import ReplicaSettings, Status, load, load_backend
from gateway.replica.weights import Weights
from tests.support.fake_device import FakeGpu
from tests.support.tiny_model import TinyModel


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return TinyModel().write(tmp_path / "tiny.gguf")


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: None)


@pytest.fixture
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))
    monkeypatch.setattr(start, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "torch", torch)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """With a GPU that is a fake one: how the backend was asked for."""
    asked: list[dict[str, object]] = []

    def load_on_gpu(weights: Weights, name: str, **options: object) -> FakeGpu:
        asked.append({"name": name, **options})
        return FakeGpu(max_tokens=256)

    monkeypatch.setattr("gateway.replica.main.load_on_gpu", load_on_gpu)
    return asked


@pytest.mark.usefixtures("without_torch")
def test_without_torch_auto_takes_the_cpu(model: Path) -> None:
    backend = load_backend(Weights.open(model), ReplicaSettings(str(model)), Status(None))
    assert isinstance(backend, CpuBackend)
    assert backend.blocks == 1024


@pytest.mark.usefixtures("without_torch")
def test_without_torch_cuda_says_what_to_install(model: Path) -> None:
    settings = ReplicaSettings(str(model), backend="cuda")
    with pytest.raises(ValueError, match=r"run: pip install 'inference-layer\[replica,gpu\]'"):
        load_backend(Weights.open(model), settings, Status(None))


@pytest.mark.usefixtures("without_gpu")
def test_without_a_gpu_auto_takes_the_cpu_and_cuda_says_why(model: Path) -> None:
    weights = Weights.open(model)
    assert isinstance(load_backend(weights, ReplicaSettings(str(model)), Status(None)), CpuBackend)
    with pytest.raises(ValueError, match="torch finds no GPU that it can use"):
        load_backend(weights, ReplicaSettings(str(model), backend="cuda"), Status(None))


def test_with_a_gpu_auto_takes_it_and_as_much_kv_as_fits(
    model: Path, asked: list[dict[str, object]]
) -> None:
    engine, _ = load(ReplicaSettings(str(model), gpu_memory=0.5, threads=2), Status(None))
    assert asked[0]["name"] == str(model)
    assert asked[0]["blocks"] is None
    assert asked[0]["memory_fraction"] == 0.5
    assert asked[0]["deterministic"] is False
    assert engine.stats().total_blocks == 64


def test_kv_tokens_and_deterministic_are_passed_on(
    model: Path, asked: list[dict[str, object]]
) -> None:
    settings = ReplicaSettings(str(model), backend="cuda", kv_tokens=4096, deterministic=True)
    load(settings, Status(None))
    assert (asked[0]["blocks"], asked[0]["deterministic"]) == (256, True)


def test_who_asks_for_the_cpu_gets_it_beside_a_gpu(
    model: Path, asked: list[dict[str, object]]
) -> None:
    settings = ReplicaSettings(str(model), backend="cpu", deterministic=True)
    assert isinstance(load_backend(Weights.open(model), settings, Status(None)), CpuBackend)
    assert not asked


def test_a_model_that_does_not_fit_is_not_computed_on_the_cpu_instead(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_on_gpu(*arguments: object, **options: object) -> None:
        raise DoesNotFit("m does not fit")

    monkeypatch.setattr("gateway.replica.main.load_on_gpu", load_on_gpu)
    with pytest.raises(DoesNotFit):
        load_backend(Weights.open(model), ReplicaSettings(str(model)), Status(None))


def test_the_reference_cannot_be_deterministic(model: Path) -> None:
    settings = ReplicaSettings(str(model), backend="reference", deterministic=True)
    with pytest.raises(ValueError, match="reference backend is not deterministic"):
        load_backend(Weights.open(model), settings, Status(None))


def test_an_unknown_backend_is_answered_with_the_known_ones(model: Path) -> None:
    with pytest.raises(ValueError, match="'tpu' is unknown; known: auto, cuda, cpu, reference"):
        load_backend(Weights.open(model), ReplicaSettings("m", backend="tpu"), Status(None))
