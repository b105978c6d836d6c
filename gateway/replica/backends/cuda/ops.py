"""What a step is made of. Two sets of these do the same: plain torch, and our Triton kernels."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from gateway.replica.backends.cuda.layout import Layer, Model, Pool, Step


class Ops(Protocol):
    """T tokens; S of them get logits. Results are new tensors unless said otherwise."""

    def ids(self, step: Step, last: Tensor) -> Tensor:
        """[T]: the tokens, some of which are those that the step before drew, in `last`."""
        ...

    def normalise(self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        """Adds the addend to the residual x [T, hidden] in place, and returns x's RMSNorm."""
        ...

    def rotate_and_store(
        self, qkv: Tensor, model: Model, layer: Layer, pool: Pool, index: int, step: Step
    ) -> Tensor:
        """Norms of heads where the model has them, rope, and the KV into the pool of one layer.

        Takes qkv [T, (heads + 2·kv heads)·head_dim]; returns the queries [T, heads, head_dim].
        """
        ...

    def attend(self, queries: Tensor, pool: Pool, index: int, step: Step) -> Tensor:
        """Each query sees the keys up to its own position; [T, heads·head_dim]."""
        ...

    def gate(self, gate_up: Tensor) -> Tensor:
        """silu of the first half of the columns, times the second: [T, feed_forward]."""
        ...

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor: ...

    def logits(self, x: Tensor, matrix: Tensor) -> Tensor:
        """float32, whatever the model's type: rounded ones would be equal too often."""
        ...

    def draw(self, logits: Tensor, temperatures: Tensor, noises: Tensor) -> Tensor:
        """One token [S] per row of logits; -1 where they are not finite (base.Draws)."""
        ...
