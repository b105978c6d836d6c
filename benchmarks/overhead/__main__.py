"""
What a request costs that goes through a gateway: `python -m benchmarks.overhead`.

The gateway has a core of its own; load and endpoint share the other. CPU is the user and system
time of the gateway's whole process tree. Each figure is the median of `ROUNDS` rounds in which the
contestants take turns, so that a machine that slows down slows everyone; read ratios.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import uvloop

from benchmarks.overhead import load
from benchmarks.overhead.plot import svg
from benchmarks.overhead.processes import cpu_s, resident, running
from benchmarks.overhead.proxies import OURS_ALONE, PEERS, TWO_WORKERS, Contestant, Proxy, free_port

ROUNDS = 5
EVENTS = 67
GAP_S = 0.02
SLOW_GAP_S = 0.1
PATIENCE_S = 0.05  # the p99 within which requests per second count
PLAIN, STREAM = "CPU µs per plain request", "200 streams: CPU µs per stream"
PHASES = ("headers", "first", "middle")

Figures = dict[str, list[float]]


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")


def plain(proxy: Proxy, contestant: Contestant) -> Iterator[tuple[str, float]]:
    requests = contestant.requests
    before, began = cpu_s(proxy.pid), time.perf_counter()
    seconds = uvloop.run(load.plain(proxy.target, contestant.connections, requests))
    lasted, used = time.perf_counter() - began, cpu_s(proxy.pid) - before
    yield PLAIN, used / requests * 1e6
    p99 = percentile(seconds, 0.99)
    if p99 <= PATIENCE_S:
        yield f"requests/s at p99 ≤ {PATIENCE_S * 1000:.0f} ms", requests / lasted
    yield "p99 of a plain request, ms", p99 * 1000


def streamed(proxy: Proxy, count: int, gap: float) -> Iterator[tuple[str, float]]:
    name = f"{count} streams"
    before = cpu_s(proxy.pid)
    got = uvloop.run(load.streams(proxy.target, count, EVENTS, gap, spread=gap))
    used = cpu_s(proxy.pid) - before
    yield f"{name}: CPU µs per stream", used / count * 1e6
    yield f"{name}: CPU µs per event", used / count / EVENTS * 1e6
    yield f"{name}: first event p50, ms", percentile(got.first, 0.5) * 1000
    yield f"{name}: first event p99, ms", percentile(got.first, 0.99) * 1000
    yield f"{name}: gap p50, ms", percentile(got.gaps, 0.5) * 1000
    yield f"{name}: gap p99, ms", percentile(got.gaps, 0.99) * 1000
    yield f"{name}: with events lost or out of order", got.wrong


def hung_up(proxy: Proxy, upstream: str) -> Iterator[tuple[str, float]]:
    """How long until the endpoint sees that the client has left, in each phase."""
    for phase in PHASES:
        known = len(_seen(upstream))
        left = uvloop.run(load.hang_up(proxy.target, phase))
        time.sleep(1)
        seen = _seen(upstream)[known:]
        yield (
            f"hang-up seen in phase {phase}, ms",
            ((seen[0] - left) * 1000 if seen else float("nan")),
        )


def _seen(upstream: str) -> list[float]:
    times = asyncio.run(load.get(upstream, "/seen"))
    assert isinstance(times, list)
    return times


def memory(proxy: Proxy, contestant: Contestant) -> Iterator[tuple[str, float]]:
    """Resident megabytes after 20,000 and after 100,000 requests."""
    uvloop.run(load.plain(proxy.target, contestant.connections, 20_000))
    early = resident(proxy.pid)
    yield "memory after 20,000 requests, MB", early / 1e6
    uvloop.run(load.plain(proxy.target, contestant.connections, 80_000))
    yield "memory after 100,000 requests / after 20,000", resident(proxy.pid) / early


def measure(contestants: Sequence[Contestant], rounds: int, *, long: bool) -> dict[str, Figures]:
    figures: dict[str, Figures] = {c.name: defaultdict(list) for c in contestants}
    port = free_port()
    upstream = f"http://127.0.0.1:{port}"
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        command = [sys.executable, "-m", "benchmarks.overhead.upstream", str(port)]
        stack.enter_context(running(command, {1}))
        time.sleep(1)
        for number in range(rounds):
            for contestant in contestants:
                note = figures[contestant.name]
                # One at a time: even an idle router's probes would be in the others' figures.
                with contestant.started(port, {0}, folder) as proxy:
                    warm_up = min(2000, contestant.requests // 3)
                    uvloop.run(load.plain(proxy.target, contestant.connections, warm_up))
                    for figure in _cases(proxy, contestant, upstream, last=number == rounds - 1):
                        note[figure[0]].append(figure[1])
                    if long and number == 0 and contestant.requests > 1000:
                        for figure in memory(proxy, contestant):
                            note[figure[0]].append(figure[1])
                print(f"round {number + 1}: {contestant.name}", file=sys.stderr)
    return figures


def _cases(
    proxy: Proxy, contestant: Contestant, upstream: str, *, last: bool
) -> Iterator[tuple[str, float]]:
    yield from plain(proxy, contestant)
    most = 16 if contestant.connections < 64 else 200
    yield from streamed(proxy, 10, GAP_S)
    yield from streamed(proxy, most, GAP_S)
    if last and most == 200:
        yield from streamed(proxy, 1000, SLOW_GAP_S)
    if last:
        yield from hung_up(proxy, upstream)


def table(figures: dict[str, Figures]) -> str:
    names = list(figures)
    rows = list(dict.fromkeys(row for got in figures.values() for row in got))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [_shown(figures[name].get(row)) for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(values: list[float] | None) -> str:
    return "" if not values else f"{statistics.median(values):.4g}"


def ratios(figures: dict[str, Figures]) -> str:
    """Ours over a peer's of the same round, the median over the rounds."""
    wanted = (
        (PLAIN, "smg"),
        (PLAIN, "sglang-router"),
        (STREAM, "smg"),
        (STREAM, "sglang-router"),
        (PLAIN, "LiteLLM"),
    )
    lines = ["| ours / peer's | |", "|---|---|"]
    ours = figures[OURS_ALONE.name]
    for row, peer in wanted:
        if figures.get(peer, {}).get(row):
            each = [a / b for a, b in zip(ours[row], figures[peer][row], strict=False)]
            lines.append(f"| {row} / {peer}'s | {statistics.median(each):.3g} |")
    two = figures.get(TWO_WORKERS.name, {}).get(PLAIN)
    if two:
        each = [a / b for a, b in zip(two, ours[PLAIN], strict=False)]
        lines.append(f"| {PLAIN}, 2 workers / 1 | {statistics.median(each):.3g} |")
    return "\n".join(lines)


def charts(figures: dict[str, Figures]) -> dict[str, dict[str, float]]:
    return {
        row: {name: statistics.median(got[row]) for name, got in figures.items() if got.get(row)}
        for row in (PLAIN, STREAM)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--only", help="contestants, by name, with commas between")
    parser.add_argument("--requests", type=int, help="plain ones of each measurement, if fewer")
    parser.add_argument("--long", action="store_true", help="memory over 100,000 requests too")
    parser.add_argument("--plot", type=Path, help="an SVG to write")
    given = parser.parse_args()
    os.sched_setaffinity(0, {1})
    gc.disable()
    contestants = []
    for contestant in (OURS_ALONE, TWO_WORKERS, *PEERS):
        if given.only and contestant.name not in given.only.split(","):
            continue
        if contestant.found() is None:
            print(f"{contestant.name} is left out: there is no {contestant.program} here")
        else:
            requests = min(contestant.requests, given.requests or contestant.requests)
            contestants.append(replace(contestant, requests=requests))
    figures = measure(contestants, given.rounds, long=given.long)
    print(table(figures))
    if OURS_ALONE.name in figures:
        print()
        print(ratios(figures))
    if given.plot:
        given.plot.write_text(svg(charts(figures)))


if __name__ == "__main__":
    main()
