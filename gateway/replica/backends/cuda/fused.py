"""The step's parts as our kernels: each writes what it makes once and reads nothing twice."""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from gateway.replica.backends.base import BLOCK_SIZE
from gateway.replica.backends.cuda.kernels.attention import attend_to_split, join_splits
from gateway.replica.backends.cuda.kernels.draw import pick, survey
from gateway.replica.backends.cuda.kernels.elementwise import (
    add_and_normalise,
    gate,
    rotate_and_store,
)
from gateway.replica.backends.cuda.kernels.matmul import multiply
from gateway.replica.backends.cuda.layout import Layer, Model, Pool, Step
from gateway.replica.backends.cuda.plain import PlainOps

TILE = 64
"""Keys that an attention program takes at once: four blocks."""

MOST_SPLITS = 32
FIXED_SPLITS = 8
"""Of a token's keys where steps must be deterministic."""

PROGRAMS = 256
"""Attention programs that keep a GPU busy: about two for each of its multiprocessors."""

SLICE = 256
"""Tokens whose splits lie in memory at once."""

PART = 4096
"""Logits that one program surveys."""


class TritonOps(PlainOps):
    """Implements `ops.Ops`. Prompts attend as in plain torch, whose kernels are good at that,
    unless `deterministic`: then every token attends as if it were alone."""

    def __init__(self, *, deterministic: bool = False) -> None:
        self._deterministic = deterministic

    def normalise(self, x: Tensor, addend: Tensor | None, weight: Tensor, epsilon: float) -> Tensor:
        rows, columns = x.shape
        out = torch.empty_like(x)
        if rows:
            block = triton.next_power_of_2(columns)
            add_and_normalise[(rows,)](
                x,
                x if addend is None else addend,
                weight,
                out,
                columns,
                epsilon,
                ADD=addend is not None,
                BLOCK=block,
                num_warps=min(16, max(1, block // 512)),
            )
        return out

    def rotate_and_store(
        self, qkv: Tensor, model: Model, layer: Layer, pool: Pool, index: int, step: Step
    ) -> Tensor:
        spec = model.spec
        queries = qkv.new_empty(len(qkv), spec.heads, spec.head_dim)
        norms = layer.query_norm is not None
        rotate_and_store[(len(qkv), spec.heads + 2 * spec.kv_heads)](
            qkv,
            queries,
            pool.keys[index],
            pool.values[index],
            model.cosines,
            model.sines,
            layer.query_norm if norms else qkv,
            layer.key_norm if norms else qkv,
            step.positions,
            step.rows,
            step.tables,
            step.width,
            spec.norm_epsilon,
            HEADS=spec.heads,
            KV_HEADS=spec.kv_heads,
            DIM=spec.head_dim,
            HALF=triton.next_power_of_2(spec.head_dim // 2),
            NORMS=norms,
            BLOCK_SIZE=BLOCK_SIZE,
            num_warps=1,
        )
        return queries

    def attend(self, queries: Tensor, pool: Pool, index: int, step: Step) -> Tensor:
        if self._deterministic:
            out = torch.empty_like(queries)
            chosen = torch.arange(len(queries), dtype=torch.int32, device=queries.device)
            for some in chosen.split(SLICE):
                self._attend_singly(queries, pool, index, step, some, out)
            return out.flatten(1)
        return super().attend(queries, pool, index, step)

    def _attend_singly(
        self, queries: Tensor, pool: Pool, index: int, step: Step, chosen: Tensor, out: Tensor
    ) -> None:
        _, heads, dim = queries.shape
        kv_heads = pool.keys.shape[2]
        splits = FIXED_SPLITS if self._deterministic else splits_for(len(chosen) * kv_heads)
        found = queries.new_empty(len(chosen), heads, splits, dim, dtype=torch.float32)
        totals = queries.new_empty(len(chosen), heads, splits, dtype=torch.float32)
        dim_block = triton.next_power_of_2(dim)
        attend_to_split[(len(chosen), kv_heads, splits)](
            queries,
            pool.keys[index],
            pool.values[index],
            chosen,
            step.positions,
            step.rows,
            step.tables,
            step.width,
            found,
            totals,
            dim**-0.5,
            HEADS=heads,
            KV_HEADS=kv_heads,
            DIM=dim,
            DIM_BLOCK=dim_block,
            GROUP=max(16, triton.next_power_of_2(heads // kv_heads)),  # the least that is a tile
            SPLITS=splits,
            TILE=TILE,
            BLOCK_SIZE=BLOCK_SIZE,
            PRECISION=_precision(queries),
            num_warps=4,
            num_stages=2,
        )
        join_splits[(len(chosen), heads)](
            found,
            totals,
            chosen,
            out,
            HEADS=heads,
            DIM=dim,
            DIM_BLOCK=dim_block,
            SPLITS=splits,
            num_warps=1,
        )

    def gate(self, gate_up: Tensor) -> Tensor:
        rows, columns = len(gate_up), gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, columns)
        gate[(rows, triton.cdiv(columns, 1024))](gate_up, out, columns, BLOCK=1024, num_warps=4)
        return out

    def linear(self, x: Tensor, matrix: Tensor, bias: Tensor | None = None) -> Tensor:
        if self._deterministic:
            return _multiplied(x, matrix, bias, x.dtype)
        return F.linear(x, matrix, bias)

    def logits(self, x: Tensor, matrix: Tensor) -> Tensor:
        if self._deterministic:
            return _multiplied(x, matrix, None, torch.float32)
        return super().logits(x, matrix)

    def draw(self, logits: Tensor, temperatures: Tensor, noises: Tensor) -> Tensor:
        rows, vocabulary = logits.shape
        tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
        if not rows:
            return tokens
        parts = triton.cdiv(vocabulary, PART)
        highs, sums = (torch.empty(rows, parts, device=logits.device) for _ in range(2))
        bests = torch.empty(rows, parts, dtype=torch.int32, device=logits.device)
        survey[(rows, parts)](
            logits, temperatures, highs, bests, sums, vocabulary, PARTS=parts, PART=PART
        )
        pick[(rows,)](
            logits,
            temperatures,
            noises,
            highs,
            bests,
            sums,
            tokens,
            vocabulary,
            PARTS=parts,
            PARTS_BLOCK=triton.next_power_of_2(parts),
            PART=PART,
        )
        return tokens


def splits_for(programs: int) -> int:
    """Into how many parts so many programs' keys are split: a power of two that makes enough."""
    splits = 1
    while splits < MOST_SPLITS and splits * programs < PROGRAMS:
        splits *= 2
    return splits


def _multiplied(x: Tensor, matrix: Tensor, bias: Tensor | None, kind: torch.dtype) -> Tensor:
    (rows, inputs), outputs = x.shape, len(matrix)
    out = torch.empty(rows, outputs, dtype=kind, device=x.device)
    if rows:
        multiply[(triton.cdiv(rows, 64), triton.cdiv(outputs, 64))](
            x,
            matrix,
            x if bias is None else bias,
            out,
            rows,
            outputs,
            inputs,
            BIAS=bias is not None,
            ROWS=64,
            OUTPUTS=64,
            INPUTS=64,
            PRECISION=_precision(x),
            num_warps=4,
            num_stages=3,
        )
    return out


def _precision(x: Tensor) -> str:
    """Of products of float32: as it is, and not in TensorFloat-32."""
    return "ieee" if x.dtype is torch.float32 else "tf32"
