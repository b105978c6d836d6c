"""Whether there is a GPU to compute on, and the backend that does. torch is imported only here,
and only where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gateway.replica.weights import Weights

if TYPE_CHECKING:
    from gateway.replica.backends.cuda.backend import CudaBackend

CHUNK_TOKENS = 2048
"""Most tokens of one step: enough that a product's weights are read for many."""

MOST_RUNNING = 256
"""Answers decoded at once. More would only wait for each other: at 256 the products of a model of
8 billion weights no longer wait for memory alone."""


class NoGpu(ValueError):
    """There is none that can be used; the message says what is missing."""


def check_gpu() -> None:
    """Raises NoGpu."""
    if find_spec("torch") is None:
        raise NoGpu("torch is not installed; run: pip install 'inference-layer[replica,gpu]'")
    import torch

    if not torch.cuda.is_available():
        raise NoGpu("torch finds no GPU that it can use (torch.cuda.is_available() is false)")


def load_on_gpu(
    weights: Weights,
    name: str,
    *,
    blocks: int | None,
    memory_fraction: float,
    deterministic: bool,
    progress: Callable[[str, float], None],
) -> CudaBackend:
    """`blocks` of KV: None is as many as fit in that fraction of the free memory.

    Raises NoGpu and memory.DoesNotFit, and ValueError if it cannot be deterministic.
    """
    check_gpu()
    from gateway.replica.backends.cuda.backend import CudaBackend, Options

    options = Options(
        kernels="triton" if find_spec("triton") else "plain",
        deterministic=deterministic,
        max_tokens=CHUNK_TOKENS,
        max_rows=MOST_RUNNING,
        memory_fraction=memory_fraction,
        blocks=blocks,
    )
    return CudaBackend.load(weights, options, name, progress)
