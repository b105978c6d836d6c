"""What a backend may trust: compiled kernels check no index."""

from __future__ import annotations

from gateway.replica.backends.base import BLOCK_SIZE, Batch, Int32
from gateway.replica.spec import ModelSpec


def check(batch: Batch, spec: ModelSpec, blocks: int, max_tokens: int) -> None:
    """Raise ValueError when the batch would reach outside the model, the pool or the scratch."""
    if not 1 <= len(batch) <= max_tokens:
        raise ValueError(f"a batch has {len(batch)} tokens; expected 1 to {max_tokens}")
    if not len(batch.tokens) == len(batch.positions) == len(batch.rows):
        raise ValueError("tokens, positions and rows of a batch differ in length")
    width = min(spec.context_length, batch.tables.shape[1] * BLOCK_SIZE)
    _within("tokens", batch.tokens, spec.vocabulary)
    _within("positions", batch.positions, width)
    _within("rows", batch.rows, len(batch.tables))
    _within("tables", batch.tables, blocks)
    _within("logits_at", batch.logits_at, len(batch))
    if len(batch.logits_at) > max_tokens:
        raise ValueError(f"{len(batch.logits_at)} logits are wanted; at most {max_tokens}")


def check_window(spec: ModelSpec) -> None:
    """Raise ValueError when a token would have to forget earlier ones, which no backend does."""
    if spec.window is not None and spec.window < spec.context_length:
        raise ValueError(
            f"this {spec.architecture} model attends to its last {spec.window} tokens only, fewer "
            f"than its context of {spec.context_length}; supported: a context that fits, "
            f"with --context {spec.window}"
        )


def _within(name: str, numbers: Int32, end: int) -> None:
    if numbers.size and not (numbers.min() >= 0 and numbers.max() < end):
        raise ValueError(f"{name} of a batch must be from 0 to {end - 1}")
