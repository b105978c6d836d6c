"""
The GPU backend: whether it is right, and how near it comes to what the memory and the cores allow.

    python -m benchmarks.gpu                 on a GPU, with the extras `replica`, `gpu` and `torch`
    python -m benchmarks.gpu --device cpu    every line of it, with tiny models: checks the script

Everything runs on one device, one after the other: the checks, then a measured copy bandwidth and
matrix rate, then each model beside transformers. The floor of a decode step is the time in which
its weights and its KV can be copied once; figures are medians of `--rounds`. The exit code is 1 if
a check failed, whatever the goals.
"""

from __future__ import annotations

import argparse
import gc
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

from benchmarks.gpu_models import (
    LLAMA_8B,
    TINY,
    Ours,
    Theirs,
    submission,
    synchronise,
    transformers_model,
)
from gateway import models
from gateway.replica.backends.base import BLOCK_SIZE, Batch
from gateway.replica.backends.cuda.backend import Options

FLOOR_GOAL, BESIDE_GOAL, SMALL_GOAL, PREFILL_GOAL = 0.7, 10.0, 1500.0, 0.4
KL_MOST = 0.01  # nats a token, of bfloat16 beside float32


@dataclass(frozen=True, slots=True)
class Scale:
    """How large everything is; the CPU's is for checking the script."""

    device: str
    kernels: str
    batches: Sequence[int]
    length: int  # of prompts before decoding
    prefill: int
    steps: int
    rounds: int
    answers: int  # tokens that are compared
    max_tokens: int

    def options(self, dtype: torch.dtype, blocks: int, **others: bool) -> Options:
        return Options(
            device=self.device,
            dtype=dtype,
            kernels=self.kernels,
            blocks=blocks,
            max_tokens=self.max_tokens,
            max_rows=max(self.batches),
            **others,
        )

    @property
    def blocks(self) -> int:
        """For the largest batch, with room to decode."""
        each = -(-(self.length + self.steps + 32) // BLOCK_SIZE) + 1
        return max(self.batches) * each + self.prefill // BLOCK_SIZE + 64


ON_GPU = Scale("cuda", "triton", (1, 16, 64, 256), 512, 2048, 64, 5, 64, 2048)
ON_CPU = Scale("cpu", "plain", (1, 4), 20, 40, 3, 2, 40, 64)


class Checks:
    def __init__(self) -> None:
        self.failed = False

    def __call__(self, what: str, holds: bool, detail: str = "") -> None:
        self.failed |= not holds
        print(f"  {'ok    ' if holds else 'FAILED'} {what}" + (f": {detail}" if detail else ""))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--kernels", choices=("triton", "plain"))
    parser.add_argument("--rounds", type=int)
    args = parser.parse_args(arguments)
    scale = ON_GPU if args.device == "cuda" else ON_CPU
    given = {"kernels": args.kernels, "rounds": args.rounds}
    scale = replace(scale, **{key: value for key, value in given.items() if value is not None})
    name = torch.cuda.get_device_name() if args.device == "cuda" else "cpu, tiny models"
    print(f"{name}; torch {torch.__version__}; {scale.kernels} kernels")
    torch.backends.cuda.matmul.allow_tf32 = False  # of what is compared in float32
    checks = Checks()
    with tempfile.TemporaryDirectory() as folder:
        small = _small(args.device, Path(folder))
        check(small, scale, checks)
        measure(small, scale)
    return int(checks.failed)


def _small(device: str, folder: Path) -> Path:
    if device == "cuda":
        return models.find("smollm2")
    transformers_model(TINY, torch.float32, "cpu").save_pretrained(folder / "tiny")
    return folder / "tiny"


def check(path: Path, scale: Scale, checks: Checks) -> None:
    print("checks, in float32 unless said otherwise")
    vocabulary = 300 if scale.device == "cpu" else 49_152
    rng = np.random.default_rng(5)
    prompts = [rng.integers(0, vocabulary, 24 + 9 * n).tolist() for n in range(4)]
    theirs = Theirs.read(path, torch.float32, scale.device)
    wanted = [theirs.greedy(prompt, scale.answers) for prompt in prompts]
    del theirs
    ours = Ours.read(path, scale.options(torch.float32, 512))
    checks("greedy as transformers, together", answers(ours, prompts, scale) == wanted)
    engine = ours.engine()
    twice = [answers(ours, prompts[:1], scale, engine)[0] for _ in range(2)]
    checks("the same with the prefix cached", twice == wanted[:1] * 2)
    room = 2 + -(-(len(prompts[3]) + scale.answers) // BLOCK_SIZE)  # enough for one, not for two
    narrow = Ours.read(path, scale.options(torch.float32, room))
    engine = narrow.engine()
    checks("the same with preemption", answers(narrow, prompts, scale, engine) == wanted)
    count = engine.stats().preemptions
    checks("somebody was preempted", count > 0, str(count))
    del narrow, engine
    everything = prompts[3] + wanted[3]
    coarse = Ours.read(path, scale.options(torch.bfloat16, 512))
    kl = _divergence(_logits(ours, everything), _logits(coarse, everything))
    checks(f"bfloat16 within {KL_MOST} nats a token", kl < KL_MOST, f"{kl:.5f}")
    del coarse, ours
    if scale.kernels == "triton":
        _check_deterministic(path, scale, everything, checks)
    _free()


def _check_deterministic(path: Path, scale: Scale, tokens: list[int], checks: Checks) -> None:
    ours = Ours.read(path, scale.options(torch.bfloat16, 512, deterministic=True))
    whole = _logits(ours, tokens)
    checks("deterministic: chunks give the whole's bits", _same(_logits(ours, tokens, 7), whole))
    half = len(tokens) // 2
    beside = _logits(ours, tokens[:half], other=tokens[half:])
    checks("deterministic: so it does beside another", _same(beside, whole[:half]))


def _same(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.array_equal(found, expected))


def answers(ours: Ours, prompts: Sequence[list[int]], scale: Scale, engine=None) -> list[list[int]]:
    engine = engine or ours.engine()
    told: list[list[int]] = [[] for _ in prompts]
    for prompt, mine in zip(prompts, told, strict=True):
        take: Callable[..., bool] = lambda output, mine=mine: bool(mine.append(output.token))  # noqa: E731
        engine.submit(submission(str(id(mine)), prompt, scale.answers, take))
    while engine.step():
        pass
    return told


def _logits(
    ours: Ours, tokens: list[int], size: int = 1 << 30, other: list[int] | None = None
) -> np.ndarray:
    """Of every token, computed `size` at a time, perhaps beside another sequence."""
    found, size = [], min(size, ours.backend.max_tokens)
    blocks = -(-len(tokens) // BLOCK_SIZE)
    besides = other or []
    table = np.zeros((2, max(blocks, -(-len(besides) // BLOCK_SIZE), 1)), np.int32)
    table[0, :blocks] = np.arange(blocks) + table.shape[1]
    table[1] = np.arange(table.shape[1])
    for start in range(0, len(tokens), size):
        piece = tokens[start : start + size]
        count, more = len(piece), besides[: ours.backend.max_tokens - len(piece)]
        batch = Batch(
            tokens=np.array(more + piece, np.int32),
            positions=np.array([*range(len(more)), *range(start, start + count)], np.int32),
            rows=np.array([1] * len(more) + [0] * count, np.int32),
            tables=table,
            logits_at=np.arange(len(more), len(more) + count, dtype=np.int32),
        )
        found.append(ours.backend.forward(batch).copy())
    return np.concatenate(found)


def _divergence(true: np.ndarray, other: np.ndarray) -> float:
    p, q = (torch.from_numpy(each).double().log_softmax(-1) for each in (true, other))
    return float((p.exp() * (p - q)).sum(-1).mean())


def measure(small: Path, scale: Scale) -> None:
    bandwidth, rate = copy_bandwidth(scale), matrix_rate(scale)
    print(f"copies {bandwidth / 1e9:,.0f} GB/s; bf16 products {rate / 1e12:,.3f} TFLOP/s")
    kind = torch.bfloat16
    options = scale.options(kind, scale.blocks)
    large = LLAMA_8B if scale.device == "cuda" else TINY
    print(f"{'':32}{'ours':>12}{'transformers':>14}{'times':>8}{'of floor':>10}   goal")
    for name, ours, theirs in (
        (
            small.name,
            lambda: Ours.read(small, options),
            lambda: Theirs.read(small, kind, scale.device),
        ),
        (
            "8B shape" if scale.device == "cuda" else "tiny shape",
            lambda: Ours.random(large, options),
            lambda: Theirs.random(large, kind, scale.device),
        ),
    ):
        contest(name, ours, theirs, scale, bandwidth, rate)
    if scale.kernels == "triton":
        fixed = scale.options(kind, scale.blocks, deterministic=True)
        contest(
            "8B, deterministic", lambda: Ours.random(large, fixed), None, scale, bandwidth, rate
        )


def contest(
    name: str,
    ours: Callable[[], Ours],
    theirs: Callable[[], Theirs] | None,
    scale: Scale,
    bandwidth: float,
    rate: float,
) -> None:
    """One model's lines of the table. First theirs alone on the device, then ours."""
    beside = {} if theirs is None else _beside(theirs(), scale)
    _free()
    _lines(name, ours(), beside, scale, bandwidth, rate)
    _free()


def _beside(model: Theirs, scale: Scale) -> dict[int, float]:
    """Seconds of a decode step by its size; at 0, of a prefill."""
    beside = {
        size: _median(scale, lambda n, s=size: model.decode(s, scale.length, scale.steps))
        for size in scale.batches
    }
    return beside | {0: _median(scale, lambda n: model.prefill(scale.prefill, n))}


def _lines(
    name: str,
    model: Ours,
    beside: dict[int, float],
    scale: Scale,
    bandwidth: float,
    rate: float,
) -> None:
    is_large = name.startswith("8B")
    for size in scale.batches:
        seconds = _median(scale, lambda n, s=size: model.decode(s, scale.length, scale.steps))
        floor = model.step_bytes(size, scale.length + scale.steps // 2) / bandwidth
        goals = []
        if is_large and beside and size in (1, 64):
            goals.append(_verdict("of floor", floor / seconds, FLOOR_GOAL))
        if is_large and size == 64 and size in beside:
            goals.append(_verdict("times", beside[size] / seconds, BESIDE_GOAL))
        if not is_large and size == 1:
            goals.append(_verdict("tokens/s", size / seconds, SMALL_GOAL))
        _line(f"{name}, decode {size}", size, seconds, beside.get(size), floor, goals)
    seconds = _median(scale, lambda n: model.prefill(scale.prefill, n))
    floor = model.prefill_flops(scale.prefill) / rate
    goals = [_verdict("of rate", floor / seconds, PREFILL_GOAL)] if is_large and beside else []
    label = f"{name}, prefill {scale.prefill}"
    _line(label, scale.prefill, seconds, beside.get(0), floor, goals)


def _line(
    label: str, tokens: int, seconds: float, other: float | None, floor: float, goals: list[str]
) -> None:
    theirs = f"{tokens / other:14,.0f}{other / seconds:8.1f}" if other else " " * 22
    print(
        f"{label:32}{tokens / seconds:12,.0f}{theirs}{floor / seconds:10.2f}   {'; '.join(goals)}"
    )


def _verdict(what: str, value: float, goal: float) -> str:
    return f"{what} ≥ {goal:g}: {'met' if value >= goal else 'MISSED'}"


def _median(scale: Scale, run: Callable[[int], float]) -> float:
    run(-1 % 2**31)  # warm-up
    return median(run(index) for index in range(scale.rounds))


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def copy_bandwidth(scale: Scale) -> float:
    """Bytes a second, read and written, of a large copy on the device."""
    source = torch.empty(2**30 if scale.device == "cuda" else 2**24, dtype=torch.uint8)
    source = source.to(scale.device)
    target = torch.empty_like(source)
    return 2 * len(source) / _best(scale, lambda: target.copy_(source))


def matrix_rate(scale: Scale) -> float:
    """Operations a second of a large product of bfloat16."""
    size = 8192 if scale.device == "cuda" else 256
    x = torch.randn(size, size, device=scale.device).bfloat16()
    return 2 * size**3 / _best(scale, lambda: x @ x)


def _best(scale: Scale, work: Callable[[], object]) -> float:
    seconds = []
    for _ in range(10):
        synchronise(scale.device)
        started = perf_counter()
        work()
        synchronise(scale.device)
        seconds.append(perf_counter() - started)
    return min(seconds)


if __name__ == "__main__":
    sys.exit(main())
