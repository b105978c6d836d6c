"""The parts of a step in which each token is computed by itself, between the products."""

from __future__ import annotations

from gateway.replica.backends.base import Float32
from gateway.replica.backends.cpu.attention import rotate_and_store
from gateway.replica.backends.cpu.board import over_tokens
from gateway.replica.backends.cpu.elementwise import (
    add,
    add_to_all,
    embed,
    gate,
    normalise,
    normalise_heads,
    select,
)
from gateway.replica.backends.cpu.jit import jit
from gateway.replica.backends.cpu.layout import Model, Pool, Scratch, Shape, Tokens
from gateway.replica.backends.cpu.quantise import quantise


@jit
def _normalise(
    first: int, last: int, shape: Shape, model: Model, index: int, scratch: Scratch
) -> None:
    """The residual stream to `normed` and, of 8 bits, to the panels."""
    n, normed = last - first, scratch.normed[first:last]
    normalise(scratch.hidden[first:last], model.norms[index], shape.norm_epsilon, n, normed)
    quantise(normed, n, shape.hidden, scratch.panels, first)


@over_tokens
@jit
def sum_up(first: int, last: int, scratch: Scratch) -> None:
    """What a half layer adds joins the residual stream."""
    add(scratch.normed[first:last], last - first, scratch.hidden[first:last])


@over_tokens
@jit
def enter_attention(
    first: int, last: int, shape: Shape, model: Model, layer: int, tokens: Tokens, scratch: Scratch
) -> None:
    """Behind all tokens' panels come those of what 8 bits leave of them."""
    n, x, normed = last - first, scratch.hidden[first:last], scratch.normed[first:last]
    if layer:
        add(normed, n, x)
    else:
        embed(shape, model, tokens.ids[first:last], x)
    _normalise(first, last, shape, model, 2 * layer, scratch)
    quantise(normed, n, shape.hidden, scratch.panels, len(tokens.ids) + first)


@over_tokens
@jit
def store(
    first: int,
    last: int,
    shape: Shape,
    model: Model,
    pool: Pool,
    layer: int,
    tokens: Tokens,
    scratch: Scratch,
) -> None:
    """From queries, keys and values to turned queries, and the rest in the pool."""
    n, values = last - first, scratch.values[first:last]
    add(scratch.values[len(tokens.ids) + first : len(tokens.ids) + last], n, values)
    _finish(shape, model, layer, n, scratch.queries_keys[first:last], values)
    for t in range(first, last):
        rotate_and_store(shape, model, pool, layer, tokens, t, scratch)


@jit
def _finish(
    shape: Shape, model: Model, layer: int, n: int, queries_keys: Float32, values: Float32
) -> None:
    """What some architectures do between these products and rope: biases, norms of heads."""
    if len(model.biases):
        split = queries_keys.shape[1]
        add_to_all(model.biases[layer, :split], queries_keys, n)
        add_to_all(model.biases[layer, split:], values, n)
    if len(model.head_norms):
        query, key = model.head_norms[2 * layer], model.head_norms[2 * layer + 1]
        heads, epsilon = shape.heads, shape.norm_epsilon
        for t in range(n):
            normalise_heads(queries_keys[t], query, epsilon, 0, heads)
            normalise_heads(queries_keys[t], key, epsilon, heads, heads + shape.kv_heads)


@over_tokens
@jit
def leave_attention(first: int, last: int, shape: Shape, scratch: Scratch) -> None:
    columns = shape.heads * shape.head_dim
    quantise(scratch.attended[first:last], last - first, columns, scratch.panels, first)


@over_tokens
@jit
def enter_feed_forward(
    first: int, last: int, shape: Shape, model: Model, layer: int, scratch: Scratch
) -> None:
    add(scratch.normed[first:last], last - first, scratch.hidden[first:last])
    _normalise(first, last, shape, model, 2 * layer + 1, scratch)


@over_tokens
@jit
def gate_inner(first: int, last: int, shape: Shape, scratch: Scratch) -> None:
    gate_up = scratch.gate_up[first:last]
    gate(gate_up, last - first)
    quantise(gate_up, last - first, shape.feed_forward, scratch.panels, first)


@over_tokens
@jit
def select_wanted(first: int, last: int, tokens: Tokens, scratch: Scratch) -> None:
    select(scratch.hidden, tokens.logits_at[first:last], scratch.normed[first:last])


@over_tokens
@jit
def enter_output(first: int, last: int, shape: Shape, model: Model, scratch: Scratch) -> None:
    n, x = last - first, scratch.hidden[first:last]
    weight = model.norms[2 * shape.layers]
    normalise(scratch.normed[first:last], weight, shape.norm_epsilon, n, x)
    quantise(x, n, shape.hidden, scratch.panels, first)
