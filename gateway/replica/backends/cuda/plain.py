"""The step's parts in plain torch: right on every device, and what the kernels are checked by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.backends.cuda.layout import Layer, Model, Pool, Span, Step


class PlainOps:
    """Implements `ops.Ops`."""

    def ids(self, step: Step, last: Tensor) -> Tensor:
        before = last[step.drawn.clamp(min=0).long()]
        # who got no token is in this step for nothing, but must read some embedding
        return torch.where(step.drawn < 0, step.ids, before.clamp(min=0))

    def normalise(self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        if addend is not None:
            x += addend
        return F.rms_norm(x.float(), x.shape[-1:], eps=epsilon).to(x.dtype) * weight

    def rotate_and_store(
        self, qkv: Tensor, model: Model, layer: Layer, pool: Pool, index: int, step: Step
    ) -> Tensor:
        spec = model.spec
        by_head = qkv.view(len(qkv), -1, spec.head_dim)
        query, key, value = by_head.split([spec.heads, spec.kv_heads, spec.kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query = self.normalise(query, None, layer.query_norm, spec.norm_epsilon)
            key = self.normalise(key, None, layer.key_norm, spec.norm_epsilon)
        positions = step.positions.long()
        cosines, sines = (t[positions][:, None] for t in (model.cosines, model.sines))
        query, key = (_rotated(each, cosines, sines) for each in (query, key))
        place = step.rows.long() * step.widths + positions // BLOCK_SIZE
        blocks, offsets = step.tables.long()[place], positions % BLOCK_SIZE
        pool.keys[index, blocks, :, offsets] = key
        pool.values[index, blocks, :, offsets] = value
        return query

    def attend(self, queries: Tensor, pool: Pool, index: int, step: Step) -> Tensor:
        result = torch.empty_like(queries)
        if len(step.singles):
            self._attend_singly(queries, pool, index, step, step.singles, result)
        for span in step.spans:
            mine = slice(span.first, span.first + span.count)
            result[mine] = _attend_together(queries[mine], pool, index, step, span)
        return result.reshape(len(queries), -1)

    def _attend_singly(
        self, queries: Tensor, pool: Pool, index: int, step: Step, chosen: Tensor, out: Tensor
    ) -> None:
        """Into `out`, tokens of different rows, each beside as many keys as the longest has."""
        chosen = chosen.long()
        tables = step.tables.view(-1, step.widths).long()[step.rows[chosen].long()]
        keys, values = (_gathered(part[index], tables) for part in (pool.keys, pool.values))
        seen = torch.arange(keys.shape[2], device=out.device) <= step.positions[chosen][:, None]
        asked = queries[chosen][:, :, None]
        out[chosen] = _attention(asked, keys, values, seen[:, None, None])[:, :, 0]

    def gate(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        return F.linear(x, matrix, bias)

    def logits(self, x: Tensor, matrix: Tensor) -> Tensor:
        if x.is_cuda and x.dtype is not torch.float32 and len(x):
            return torch.mm(x, matrix.T, out_dtype=torch.float32)
        return F.linear(x, matrix).float()

    def draw(self, logits: Tensor, temperatures: Tensor, noises: Tensor) -> Tensor:
        likeliest, best = logits.max(dim=-1)
        greedy = temperatures <= 0
        scale = torch.where(greedy, 1.0, temperatures)
        weights = torch.exp((logits - likeliest[:, None]) / scale[:, None])
        sums = weights.double().cumsum(-1)
        # what is left out of the last sum by rounding must not be looked for beyond it
        target = torch.minimum(noises.double() * sums[:, -1], sums[:, -1].nextafter(sums[:, 0] * 0))
        found = torch.searchsorted(sums, target[:, None], right=True)[:, 0]
        tokens = torch.where(greedy, best, found)
        return torch.where(likeliest.isfinite(), tokens, -1).int()


def _rotated(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rope, NeoX style: pairs lie half a head apart. [T, heads, head_dim]."""
    first, second = x.float().chunk(2, dim=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return torch.cat(turned, dim=-1).to(x.dtype)


def _attend_together(queries: Tensor, pool: Pool, index: int, step: Step, span: Span) -> Tensor:
    """A piece of one prompt; [tokens, heads, head_dim]."""
    blocks = -(-span.end // BLOCK_SIZE)
    first = span.row * step.widths
    table = step.tables[first : first + blocks].long()[None]
    keys, values = (
        _gathered(part[index], table)[:, :, : span.end] for part in (pool.keys, pool.values)
    )
    asked = queries.transpose(0, 1)[None]
    if not span.start:
        return _attention(asked, keys, values, None)[0].transpose(0, 1)
    here = torch.arange(span.start, span.end, device=queries.device)
    seen = torch.arange(span.end, device=queries.device) <= here[:, None]
    return _attention(asked, keys, values, seen[None, None])[0].transpose(0, 1)


def _gathered(part: Tensor, tables: Tensor) -> Tensor:
    """What lies in the blocks of each table: [tables, kv heads, positions, head_dim]."""
    together = part[tables].transpose(1, 2)  # [tables, kv heads, blocks, 16, head_dim]
    return together.reshape(*together.shape[:2], -1, part.shape[-1])


def _attention(queries: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None) -> Tensor:
    """[rows, heads, tokens, head_dim]. Each KV head is repeated: not all of torch's kernels share
    them. `seen` is None for a whole prompt, which the fastest of them need no mask for."""
    shared = queries.shape[1] // keys.shape[1]
    keys, values = (each.repeat_interleave(shared, dim=1) for each in (keys, values))
    if seen is None:
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen)
