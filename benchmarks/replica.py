"""
Our replica's arithmetic and engine beside llama.cpp and transformers, on the same GGUF file.

    BENCH_LLAMA_CPP=…/python BENCH_TRANSFORMERS=…/python python -m benchmarks.replica [CASES]

The variables name interpreters that have `cyllama`, and `torch` with `transformers`, `gguf` and
`accelerate`; without one its column stays empty. All compute on two cores; ours once more on one.
Contestants take turns, case by case; each figure is the median of `ROUNDS` rounds. CASES are some
of products, busy, engine and starts; without them all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

import httpx

from benchmarks.contestants.answering import Contestant, running
from gateway import models

ROUNDS = 5
STEPS = 15  # decode steps a round; its figure is their median
OURS = {"ours": 2, "alone": 1}  # threads
OTHERS = {"llama_cpp": "BENCH_LLAMA_CPP", "transformers": "BENCH_TRANSFORMERS"}
DECODE_GATES = {1: 1.3, 4: 1.8, 8: 2.5, 16: 2.5}
PREFILL_GATE = 3.0
CACHED_GATE = 0.1
BUSY_GATE_S = 0.1


@dataclass(frozen=True, slots=True)
class Figures:
    """One contestant's seconds of one case, a figure a round."""

    rounds: Sequence[float]

    @property
    def middle(self) -> float:
        return median(self.rounds)

    def rate(self, tokens: int) -> str:
        low, high = tokens / max(self.rounds), tokens / min(self.rounds)
        return f"{tokens / self.middle:6.0f} ({low:.0f}-{high:.0f})"

    def milliseconds(self) -> str:
        low, high = min(self.rounds) * 1e3, max(self.rounds) * 1e3
        return f"{self.middle * 1e3:6.1f} ({low:.1f}-{high:.1f})"


class Contest:
    def __init__(self, contestants: dict[str, Contestant]) -> None:
        self._contestants = contestants

    def compare(self, case: str, *arguments: int, steps: int) -> dict[str, Figures]:
        """In turns, and every other round in the opposite order."""
        rounds: dict[str, list[float]] = {name: [] for name in self._contestants}
        for contestant in self._contestants.values():
            contestant.seconds(case, *arguments)  # warm-up
        for index in range(ROUNDS):
            for name in list(rounds)[:: 1 if index % 2 else -1]:
                seconds = self._contestants[name].seconds(case, *arguments, repeats=steps)
                rounds[name].append(median(seconds))
        return {name: Figures(values) for name, values in rounds.items()}

    def ours(self, case: str, *arguments: int, name: str = "ours") -> Figures:
        contestant = self._contestants[name]
        contestant.seconds(case, *arguments)  # warm-up
        return Figures([contestant.seconds(case, *arguments)[0] for _ in range(ROUNDS)])


def main() -> None:
    path = models.find("smollm2")
    cases = {"products": products, "busy": busy, "engine": engine}
    chosen = sys.argv[1:] or [*cases, "starts"]
    print(f"load average before: {os.getloadavg()[0]:.2f}; medians of {ROUNDS} (least-most)")
    with ExitStack() as stack:
        contestants = {
            name: stack.enter_context(running(sys.executable, "ours", str(path), str(threads)))
            for name, threads in OURS.items()
        }
        for name, variable in OTHERS.items():
            if interpreter := os.environ.get(variable):
                command = (interpreter, name, str(path), "2")
                contestants[name] = stack.enter_context(running(*command))
            else:
                print(f"without {name}: {variable} names no interpreter")
        for name in chosen:
            if name in cases:
                cases[name](Contest(contestants))
    if "starts" in chosen:
        measure_starts(path)
    print(f"load average after: {os.getloadavg()[0]:.2f}")


def products(contest: Contest) -> None:
    print("tokens/s")
    for size, gate in DECODE_GATES.items():
        figures = contest.compare("decode", size, 128, steps=STEPS)
        show(f"decode {size} at 128", figures, tokens=size, gate=gate)
    show("prefill 512", contest.compare("prefill", 512, steps=1), tokens=512, gate=PREFILL_GATE)


def busy(contest: Contest) -> None:
    print("milliseconds")
    with busy_neighbour():
        figures = contest.compare("decode", 16, 128, steps=3)
    show("decode 16, busy core", figures)
    verdict("ours", figures["ours"].middle * 1e3, "≤", BUSY_GATE_S * 1e3)


def engine(contest: Contest) -> None:
    print("milliseconds")
    for name, threads in OURS.items():
        for size in 4, 8, 16:
            alone = contest.ours("decode_in_engine", size, name=name)
            print(f"{size} answers, cores: {threads}".ljust(24) + alone.milliseconds())
        beside = contest.ours("decode_beside_prompt", name=name)
        print("4 beside a prompt".ljust(24) + beside.milliseconds())
    cold, cached = contest.ours("first_token", 0), contest.ours("first_token", 1)
    print("first of 2000, cold".ljust(24) + cold.milliseconds())
    print("first of 2000, cached".ljust(24) + cached.milliseconds())
    verdict("cached/cold", cached.middle / cold.middle, "≤", CACHED_GATE)


def measure_starts(path: Path) -> None:
    """From the command to the first answer, over HTTP; cold: kernels are compiled first."""
    print("seconds from start to first answer")
    warm = Figures([start(path, {}) for _ in range(ROUNDS + 1)][1:])
    print("warm".ljust(24) + f"{warm.middle:6.2f}")
    seconds = []
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            seconds.append(start(path, {"GATEWAY_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}))
    print("cold".ljust(24) + f"{median(seconds):6.2f}")


def start(path: Path, env: dict[str, str]) -> float:
    started = perf_counter()
    command = [sys.executable, "-m", "gateway", "replica", "--supervised", "--port", "0"]
    with subprocess.Popen(
        [*command, "--model", str(path), "--name", "m"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **env},
    ) as process:
        assert process.stdout is not None
        ready = next(line for line in process.stdout if b'"loading"' not in line)
        body = {"model": "m", "prompt": "hello", "max_tokens": 1}
        port = int(ready.partition(b'"port": ')[2].partition(b",")[0])
        httpx.post(f"http://127.0.0.1:{port}/v1/completions", json=body).raise_for_status()
        seconds = perf_counter() - started
        process.kill()
    return seconds


@contextmanager
def busy_neighbour() -> Iterator[None]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        try:
            yield
        finally:
            process.kill()


def show(case: str, figures: dict[str, Figures], tokens: int = 0, gate: float = 0.0) -> None:
    """A line of a table, as rates if `tokens` are given."""
    texts = [
        f"{name} {each.rate(tokens) if tokens else each.milliseconds()}"
        for name, each in figures.items()
    ]
    print(case.ljust(24) + "   ".join(texts) + f"   load {os.getloadavg()[0]:.1f}")
    if gate and "llama_cpp" in figures:
        verdict("ours/llama.cpp", figures["llama_cpp"].middle / figures["ours"].middle, "≥", gate)


def verdict(what: str, value: float, relation: str, gate: float) -> None:
    met = value >= gate if relation == "≥" else value <= gate
    print(f"  {what} {value:.2f}, wanted {relation} {gate:g}: {'met' if met else 'MISSED'}")


if __name__ == "__main__":
    main()
