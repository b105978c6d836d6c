"""The whole step of a decoder, in the words of `ops.Ops`."""

from __future__ import annotations

from torch import Tensor

from gateway.replica.backends.cuda.layout import Model, Pool, Step
from gateway.replica.backends.cuda.ops import Ops


def forward(ops: Ops, model: Model, pool: Pool, step: Step, last: Tensor) -> Tensor:
    """Writes the step's KV; returns logits [S, vocabulary] in float32.

    `last` are the tokens that the step before drew.
    """
    epsilon = model.spec.norm_epsilon
    hidden = model.embedding[ops.ids(step, last)]
    addend: Tensor | None = None  # what the half layer before gives to the residual
    for index, layer in enumerate(model.layers):
        normed = ops.normalise(hidden, addend, layer.attention_norm, epsilon)
        qkv = ops.linear(normed, layer.qkv, layer.qkv_bias)
        queries = ops.rotate_and_store(qkv, model, layer, pool, index, step)
        attended = ops.attend(queries, pool, index, step)
        addend = ops.linear(attended, layer.attention_out)
        normed = ops.normalise(hidden, addend, layer.feed_forward_norm, epsilon)
        addend = ops.linear(ops.gate(ops.linear(normed, layer.gate_up)), layer.down)
    # Only what is wanted: of a prompt, its last token. Rows do not influence each other.
    wanted = step.logits_at.long()
    last_addend = None if addend is None else addend[wanted]
    normed = ops.normalise(hidden[wanted], last_addend, model.output_norm, epsilon)
    return ops.logits(normed, model.output)
