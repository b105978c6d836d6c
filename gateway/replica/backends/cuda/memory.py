"""How much of a device's memory what takes, and what that leaves for KV. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.spec import ModelSpec

HEADROOM = 512 * 2**20
"""Bytes beside everything that is counted: the libraries' own buffers and what lies scattered."""


class DoesNotFit(ValueError):
    """The device has too little free memory; the message says for what, and by how much."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes that a model takes on a device, in values of `itemsize` bytes."""

    weights: int
    block: int  # one block of KV
    step: int  # what a step works on

    @classmethod
    def of(cls, spec: ModelSpec, *, itemsize: int, max_tokens: int, max_rows: int) -> Needs:
        """`max_tokens` are in a step and `max_rows` of them get logits, at most."""
        heads = (spec.heads + 2 * spec.kv_heads) * spec.head_dim
        inner = 3 * spec.feed_forward
        # the residual, its norm and an addend; queries, keys, values; the attended; gate and up
        token = 3 * spec.hidden + heads + spec.heads * spec.head_dim + inner
        # float32 logits, and as much again while they are made
        logits = 2 * 4 * spec.vocabulary
        # the keys and values of the longest prompt, gathered and repeated for every head, and the
        # mask of a chunk over them: a flag, then a number
        prompt = 2 * (spec.heads + spec.kv_heads) * spec.head_dim * itemsize
        prompt = spec.context_length * (prompt + max_tokens * (1 + itemsize))
        keys = spec.layers * spec.kv_heads * spec.head_dim
        return cls(
            weights=parameters(spec) * itemsize + 4 * spec.context_length * spec.head_dim,
            block=2 * BLOCK_SIZE * keys * itemsize,
            step=2 * max_tokens * token * itemsize + max_rows * logits + prompt,
        )

    def blocks(self, name: str, free: int, fraction: float, wanted: int | None) -> int:
        """Blocks of KV for a model called `name`: as many as are `wanted`, or as many as fit.

        `fraction` of the `free` bytes may be taken. Raises DoesNotFit.
        """
        usable = int(free * fraction)
        fixed = self.weights + self.step + HEADROOM
        fitting = (usable - fixed) // self.block
        least = 1 if wanted is None else wanted
        if fitting >= least:
            return fitting if wanted is None else wanted
        raise DoesNotFit(
            f"{name} does not fit: weights take {_bytes(self.weights)}, a step "
            f"{_bytes(self.step + HEADROOM)}, {least * BLOCK_SIZE} tokens of KV "
            f"{_bytes(least * self.block)}, together {_bytes(fixed + least * self.block)}; "
            f"of the device's free {_bytes(free)}, {fraction:.0%} may be used: {_bytes(usable)}"
        )


def parameters(spec: ModelSpec) -> int:
    """How many numbers the model's file holds."""
    heads, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    layer = spec.hidden * (2 * heads + 2 * keys + 3 * spec.feed_forward + 2)
    layer += (heads + 2 * keys) * spec.qkv_bias + 2 * spec.head_dim * spec.head_norms
    embeddings = (1 if spec.tied_embeddings else 2) * spec.vocabulary * spec.hidden
    return spec.layers * layer + embeddings + spec.hidden


def _bytes(count: int) -> str:
    return f"{count:,} bytes ({count / 2**30:.2f} GiB)"
