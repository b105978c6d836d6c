"""Our policies against the peers' rules, on two public traces and two loads made up.

`python -m benchmarks.policies --out FILE` runs what the file does not hold yet, each
run as a line of its own, and prints the tables of what it holds: it may be stopped and started
again, and several may share the work (`--part 0/2`, `--part 1/2`). docs/replay.md says what is
simulated.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.config.load import PACKAGED, load_policy
from gateway.replay.files import read_trace
from gateway.replay.gateways import Setup
from gateway.replay.loads import made_up
from gateway.replay.machines import Machines
from gateway.replay.metrics import Summary, mean, summarise
from gateway.replay.simulation import Simulation
from gateway.replay.trace import Trace
from routing_policies.catalog import Catalog

TRACES = Path(__file__).parent / "traces"
PEERS = ("lmetric", "mooncake", "sglang", "llmd", "aibrix", "dynamo")
POLICIES = ("cache_aware", "balanced", *(f"peer_{peer}" for peer in PEERS))

COLUMNS = {
    "conv 1.0": ("conversation", 1.0),
    "conv 1.25": ("conversation", 1.25),
    "conv 1.5": ("conversation", 1.5),
    "synth 1.0": ("synthetic", 1.0),
    "synth 1.2": ("synthetic", 1.2),
    "agents": ("agents", 3.0),
    "hot": ("hot", 2.0),
}
"""Name -> what is asked, and how many times as fast as it was recorded."""

SETUPS = {
    "1": Setup(),
    "8": Setup(8, counters=1.0, stats_s=1.0),
    "8 shared": Setup(8),
}
"""Eight gateways share their placements. In the second setup they look at each other's counters,
and at what engines tell, once a second; in the third their counters are shared too."""

MADE_UP = 4_000
"""Requests of a load that is made up."""


@dataclass(frozen=True, slots=True)
class Run:
    gateways: str
    column: str
    seed: int
    policy: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--gateways", default=",".join(SETUPS))
    parser.add_argument("--columns", default=",".join(COLUMNS))
    parser.add_argument("--policies", default=",".join(POLICIES))
    parser.add_argument("--part", default="0/1", metavar="I/N", help="every Nth run, from the Ith")
    args = parser.parse_args()
    part, parts = map(int, args.part.split("/"))
    runs = [
        Run(gateways, column, seed, policy)
        for seed in range(args.seeds)
        for gateways in args.gateways.split(",")
        for column in args.columns.split(",")
        for policy in args.policies.split(",")
    ]
    for run in runs[part::parts]:
        if run not in results(args.out):
            summary = summary_of(run)
            with args.out.open("a", encoding="utf-8") as lines:
                print(json.dumps({**asdict(run), "summary": asdict(summary)}), file=lines)
    show(results(args.out))


def results(file: Path) -> Mapping[Run, Summary]:
    if not file.exists():
        return {}
    records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return {Run(**r): Summary(**s) for r in records for s in [r.pop("summary")]}


def summary_of(run: Run) -> Summary:
    kind, load = COLUMNS[run.column]
    trace = asked(kind, run.seed).at_load(load)
    policy = load_policy(PACKAGED / f"{run.policy}.yaml", Catalog.load())
    simulation = Simulation(trace, policy, Machines(), SETUPS[run.gateways], run.seed)
    started = time.process_time()
    answers = simulation.run()
    print(f"{run}: {time.process_time() - started:.1f} s of CPU", flush=True)
    return summarise(answers, len(simulation.servers))


def asked(kind: str, seed: int) -> Trace:
    draws = random.Random(seed)
    if kind in ("agents", "hot"):
        return made_up(kind, requests=MADE_UP, families=40, draws=draws)
    return read_trace(TRACES / f"mooncake_{kind}_trace.jsonl.xz").jittered(draws)


def show(found: Mapping[Run, Summary]) -> None:
    """For each number of gateways: goodput / ttft_p99, means over the seeds."""
    for gateways in SETUPS:
        ran = [run for run in found if run.gateways == gateways]
        columns = [column for column in COLUMNS if any(run.column == column for run in ran)]
        if columns:
            print(f"\n{gateways} gateways: goodput / ttft_p99\n")
            print("| policy |", " | ".join(columns), "|")
            print("|---" * (len(columns) + 1) + "|")
        for policy in dict.fromkeys(run.policy for run in ran):
            cells = _cells([run for run in ran if run.policy == policy], columns, found)
            print(f"| `{policy}` |", " | ".join(cells), "|")


def _cells(
    ran: Sequence[Run], columns: Sequence[str], found: Mapping[Run, Summary]
) -> Iterator[str]:
    for column in columns:
        seeds = [found[run] for run in ran if run.column == column]
        if seeds:
            of_all = mean(seeds)
            yield f"{of_all.goodput:.3f} / {of_all.ttft_p99:.1f} ({len(seeds)})"
        else:
            yield "–"


if __name__ == "__main__":
    main()
