"""`gateway replay`: what each policy would have done with a trace, on simulated engines."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    from gateway.replay.gateways import Setup
    from gateway.replay.machines import Machines
    from gateway.replay.metrics import Summary
    from gateway.replay.page import Result
    from gateway.replay.trace import Trace
    from routing_policies.policy import Policy

LOADS = {"agents": 4_000, "hot": 4_000}
"""Loads that are made up, and how many of their requests without --limit."""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "replay",
        help="compare policies on a trace, in simulation",
        description="Replays a trace against simulated engines, with the policies, placement "
        "index and counters that serve. See docs/replay.md.",
    )
    parser.set_defaults(func=run)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--trace", metavar="FILE|agents|hot")
    what.add_argument(
        "--calibrate", type=Path, metavar="FILE", help="print --machines for a measured run"
    )
    parser.add_argument(
        "--format", choices=("mooncake", "csv", "ledger"), help="default: by content"
    )
    parser.add_argument("--model", metavar="NAME", help="of a ledger that holds several")
    parser.add_argument("--block-size", type=_positive, default=512, metavar="TOKENS")
    parser.add_argument("--limit", type=_positive, metavar="N", help="only the first N requests")
    parser.add_argument("--families", type=_positive, default=40, help="prefixes of `hot`")
    parser.add_argument("--load", type=_rate, default=1.0, help="multiplies the arrival rate")
    parser.add_argument("--policies", default="", metavar="NAME,…")
    parser.add_argument("--policies-dir", type=Path, metavar="DIR", help="a folder of your own")
    parser.add_argument("--machines", type=Path, metavar="FILE", help="YAML: engines, providers")
    parser.add_argument("--replicas", type=int, help="instead of the file's (default: 8)")
    parser.add_argument("--gateways", type=_positive, default=1, metavar="N")
    parser.add_argument(
        "--counters",
        type=_counters,
        default="exact",
        metavar="own|exact|SECONDS",
        help="what a gateway knows of the others' load, or how often it looks",
    )
    parser.add_argument("--index", choices=("own", "shared"), default="shared")
    parser.add_argument(
        "--stats",
        type=_rate,
        default=0.2,
        metavar="SECONDS",
        help="how often engines are asked for their queue and cache (default: 0.2)",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=_positive, default=1, metavar="N", help="mean of N seeds")
    parser.add_argument("--json", action="store_true", help="one object, by policy")
    parser.add_argument("--html", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a PNG; needs matplotlib")


def run(args: argparse.Namespace) -> int:
    from gateway.config import ConfigError
    from gateway.replay.gateways import Setup
    from gateway.replay.page import page
    from gateway.replay.plot import can_plot, plot
    from routing_policies.catalog import PolicyError

    if args.calibrate:
        return _calibrate(args)
    if args.plot and not can_plot():
        return _refused("--plot needs matplotlib: pip install matplotlib, or use --html")
    for file in (args.html, args.plot):
        if file and not file.parent.is_dir():
            return _refused(f"{file.parent} is not a folder")
    names = [name.strip() for name in args.policies.split(",") if name.strip()]
    title = f"{args.trace} at {args.load:g} times its rate, {args.seeds} seeds from {args.seed}"
    try:
        policies = _policies(names, args.policies_dir)
        machines = _machines(args.machines, args.replicas)
        setup = Setup(args.gateways, args.counters, args.index == "shared", args.stats)
        traces = {seed: _trace(args, seed) for seed in range(args.seed, args.seed + args.seeds)}
        results = {
            name: _replay(name, traces, policy, machines, setup)
            for name, policy in policies.items()
        }
        # Before the files: where one cannot be written, the results are still there.
        _print({name: result.summary for name, result in results.items()}, as_json=args.json)
        if args.html:
            args.html.write_text(page(title, results), encoding="utf-8")
        if args.plot:
            plot(args.plot, title, results)
    except (ConfigError, PolicyError, OSError, ValueError) as error:
        return _refused(str(error))
    return 0


def _calibrate(args: argparse.Namespace) -> int:
    """Print constants with which one engine answers as measured, and how near it comes."""
    from gateway.config import ConfigError
    from gateway.replay.calibrate import FACTORS, calibrate, read_measured

    try:
        measured = read_measured(args.calibrate, args.model)
        start = _machines(args.machines, args.replicas).replica
        found = calibrate(measured, start, _progress("calibrating, round", len(FACTORS)))
    except (ConfigError, OSError, ValueError) as error:
        return _refused(str(error))
    for name, (modelled, was) in (("p50", found.ttft_p50), ("p90", found.ttft_p90)):
        print(f"# ttft_{name}: {modelled:.3f} s, measured {was:.3f} s")
    print(f"# mean of |ln(modelled / measured)|, first tokens and whole answers: {found.error:.3f}")
    print("replica:")
    for constant, value in dataclasses.asdict(found.spec).items():
        # YAML takes a number without a dot before its exponent for text.
        print(f"  {constant}: {value if isinstance(value, int) else f'{value:.12f}'}")
    return 0


def _replay(
    name: str, traces: Mapping[int, Trace], policy: Policy, machines: Machines, setup: Setup
) -> Result:
    """One policy, over every seed. The distribution is the first seed's."""
    from gateway.replay.metrics import after_warm_up, mean, summarise
    from gateway.replay.page import Result
    from gateway.replay.simulation import Simulation

    summaries: list[Summary] = []
    ttft_s: list[float] = []
    for seed, trace in traces.items():
        simulation = Simulation(trace, policy, machines, setup, seed)
        answers = simulation.run(_progress(f"{name}, seed {seed}", len(trace.requests)))
        summaries.append(summarise(answers, len(simulation.servers)))
        ttft_s = ttft_s or sorted(answer.ttft_s for answer in after_warm_up(answers))
    return Result(mean(summaries), ttft_s)


def _trace(args: argparse.Namespace, seed: int) -> Trace:
    import random

    from gateway.replay.files import read_trace
    from gateway.replay.loads import made_up

    draws = random.Random(seed)
    if args.trace in LOADS:
        count = args.limit or LOADS[args.trace]
        trace = made_up(args.trace, requests=count, families=args.families, draws=draws)
    else:
        trace = read_trace(
            Path(args.trace),
            format_=args.format,
            block_size=args.block_size,
            model=args.model,
        )
    return trace.limited(args.limit).jittered(draws).at_load(args.load)


def _policies(names: Sequence[str], folder: Path | None) -> Mapping[str, Policy]:
    """By name, as asked for. Raises ConfigError, PolicyError, or ValueError for a name that nobody
    has."""
    from gateway.config.load import load_policy, plain, policy_files
    from routing_policies.catalog import Catalog

    folders = [folder] if folder else []
    if folder and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder")
    files = policy_files(*folders)
    if not names:
        raise ValueError(f"--policies names none; there are: {', '.join(files)}")
    for name in names:
        if plain(name) not in files:
            raise ValueError(f"no policy is called {name!r}; there are: {', '.join(files)}")
    catalog = Catalog.load(*folders)
    return {name: load_policy(files[plain(name)], catalog) for name in names}


def _machines(file: Path | None, replicas: int | None) -> Machines:
    """Raises ConfigError, or ValueError for a number of replicas that cannot be."""
    from gateway.config.bind import bind
    from gateway.config.document import Document
    from gateway.replay.machines import Machines

    machines = bind(Document.read(file), Machines, {}) if file else Machines()
    return machines if replicas is None else dataclasses.replace(machines, replicas=replicas)


def _progress(what: str, total: int) -> Callable[[int], None]:
    """A line on a terminal, nothing elsewhere."""
    step = max(1, total // 100)

    def show(done: int) -> None:
        if done % step == 0 or done == total:
            end = "\n" if done == total else ""
            print(f"\r{what}: {done} of {total}", end=end, file=sys.stderr, flush=True)

    return show if sys.stderr.isatty() else lambda done: None


def _print(summaries: Mapping[str, Summary], *, as_json: bool) -> None:
    rows = {name: dataclasses.asdict(summary) for name, summary in summaries.items()}
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    width = max(map(len, rows))
    columns = list(next(iter(rows.values())))
    print(" " * width, *(f"{column:>9}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<{width}}", *(f"{row[column]:9.3f}" for column in columns))


def _refused(message: str) -> int:
    print(f"gateway replay: {message}", file=sys.stderr)
    return 2


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _rate(text: str) -> float:
    if not 0 < (value := float(text)) <= 1000:
        raise argparse.ArgumentTypeError("must be above 0, and at most 1000")
    return value


def _counters(text: str) -> float | str:
    if text in ("own", "exact"):
        return text
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be own, exact, or a number of seconds") from None
