"""The GPU backend: owns the model, the pool and the pipeline of steps."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Draws, Float32
from gateway.replica.backends.checks import check, check_window
from gateway.replica.backends.cuda.device import CudaDevice, HostDevice
from gateway.replica.backends.cuda.forward import forward
from gateway.replica.backends.cuda.layout import Model, Pool, Step
from gateway.replica.backends.cuda.load import load
from gateway.replica.backends.cuda.memory import Needs
from gateway.replica.backends.cuda.ops import Ops
from gateway.replica.backends.cuda.packing import Counts
from gateway.replica.backends.cuda.pipeline import Launched, Pipeline, sizes_up_to
from gateway.replica.backends.cuda.plain import PlainOps
from gateway.replica.weights import Weights

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Options:
    """How a model is computed. `device` is "cuda", or "cpu" for those who check it there."""

    device: str = "cuda"
    dtype: torch.dtype = torch.bfloat16
    kernels: str = "triton"  # or "plain"
    deterministic: bool = False
    max_tokens: int = 2048
    max_rows: int = 256  # answers decoded at once, at most
    memory_fraction: float = 0.9  # of what is free
    blocks: int | None = None  # of KV; None: as many as fit
    recorded: Sequence[int] | None = None  # batches as graphs; None: what is usual


class CudaBackend:
    """Implements `base.DrawingBackend`. One thread may use it.

    With `deterministic` kernels the bits of a token's logits depend on its sequence alone.
    """

    def __init__(
        self,
        model: Model,
        blocks: int,
        options: Options,
        progress: Callable[[float], None] = lambda done: None,
    ) -> None:
        """`progress` is told how many of the steps that are recorded are, from 0 to 1."""
        self.spec = model.spec
        self.blocks = blocks
        self.max_tokens = options.max_tokens
        self._model = model
        self._ops = _ops(options)
        self._pool = Pool.empty(model.spec, blocks, options.dtype, options.device)
        sizes = _recorded(options)
        width = -(-min(model.spec.context_length, blocks * BLOCK_SIZE) // BLOCK_SIZE)
        most = Counts(self.max_tokens, self.max_tokens, self.max_tokens, width)
        kind = CudaDevice if options.device == "cuda" else HostDevice
        self._device = kind(
            most.words, self.max_tokens, max(sizes, default=0), self.spec.vocabulary
        )
        self._device.body = self._compute
        self._pipeline: Pipeline[Tensor] = Pipeline(
            self._device,
            sizes,
            max_tokens=self.max_tokens,
            max_width=width,
            spare=blocks,
            progress=progress,
        )

    @classmethod
    def load(
        cls,
        weights: Weights,
        options: Options,
        name: str = "the model",
        progress: Callable[[str, float], None] = lambda step, done: None,
    ) -> Self:
        """Raises memory.DoesNotFit, naming the model, before anything is read."""
        spec = weights.spec
        check_window(spec)
        needs = Needs.of(
            spec,
            itemsize=options.dtype.itemsize,
            max_tokens=options.max_tokens,
            max_rows=options.max_rows,
        )
        most = -(-spec.context_length * options.max_rows // BLOCK_SIZE)
        blocks = options.blocks or most
        if options.device == "cuda":
            free, _ = torch.cuda.mem_get_info()
            blocks = needs.blocks(name, free, options.memory_fraction, options.blocks)
        model = load(weights, options.dtype, options.device, progress)
        backend = cls(
            model, min(blocks, most), options, lambda done: progress("recording steps", done)
        )
        progress("recording steps", 1.0)
        logger.info("%s: %d tokens of KV on the GPU", name, backend.blocks * BLOCK_SIZE)
        return backend

    def forward(self, batch: Batch) -> Float32:
        wanted = len(batch.logits_at)
        greedy = Draws(np.zeros(wanted, np.float32), np.zeros(wanted, np.float32))
        return self.launch(batch, greedy).logits()

    def launch(self, batch: Batch, draws: Draws) -> Launched[Tensor]:
        check(batch, self.spec, self.blocks, self.max_tokens)
        return self._pipeline.launch(batch, draws)

    def copy_block(self, source: int, target: int) -> None:
        self._device.enqueue(lambda: self._pool.copy_block(source, target))

    def fork(self) -> Self:
        raise ValueError("one thread keeps a GPU busy: this backend has no forks")

    def _compute(self, step: Step) -> tuple[Tensor, Tensor]:
        logits = forward(self._ops, self._model, self._pool, step, self._device.drawn)
        return logits, self._ops.draw(logits, step.temperatures, step.noises)


def _ops(options: Options) -> Ops:
    if options.kernels == "plain":
        if options.deterministic:
            raise ValueError("deterministic steps need the Triton kernels")
        return PlainOps()
    from gateway.replica.backends.cuda.fused import TritonOps

    return TritonOps(deterministic=options.deterministic)


def _recorded(options: Options) -> Sequence[int]:
    if options.recorded is not None:
        return options.recorded
    # what chooses by shape what to compute cannot be recorded
    return sizes_up_to(options.max_rows) if options.kernels == "triton" else ()
