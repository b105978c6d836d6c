"""`gateway emulate`: providers imitated on this machine, with faults."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    from gateway.emulator.endpoint import Endpoint

EXAMPLE = """\
example:
  gateway emulate fireworks together --port 9100 --script outage.yaml
  gateway emulate --list

Each profile gets a port: the first --port, the others those after it. docs/emulator.md says how to
rehearse an outage. What passes here agrees with our reading of a provider; the provider was not
asked.
"""

LAST_PORT = 65_535


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "emulate",
        help="imitate providers, with faults",
        description="Serve imitations of providers and engines, to rehearse against.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)
    parser.add_argument("profiles", nargs="*", metavar="PROFILE", help="see --list")
    parser.add_argument("--list", action="store_true", help="profiles, behaviours and knobs")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument(
        "--port", type=_port, default=9100, help="of the first profile; 0 takes free ones"
    )
    parser.add_argument("--script", type=Path, metavar="FILE", help="YAML: which faults, when")
    parser.add_argument("--seed", type=int, default=0, help="of words, places and chances")
    parser.add_argument(
        "--speed",
        type=_speed,
        default=1.0,
        metavar="FACTOR",
        help="divides the times of computing and of starting up (default: %(default)g)",
    )


def run(args: argparse.Namespace) -> int:
    if args.list:
        return _list()
    if not args.profiles:
        return _refused("name at least one profile; --list shows them")
    count = len(args.profiles)
    if args.port and args.port + count - 1 > LAST_PORT:
        return _refused(f"{count} ports from {args.port} on go beyond {LAST_PORT}")
    from gateway.config.document import ConfigError
    from gateway.emulator.emulated import endpoint
    from gateway.emulator.script import Script, read_script

    try:
        script = read_script(args.script) if args.script else Script()
        endpoints = [
            endpoint(
                name,
                seed=args.seed,
                speed=args.speed,
                script=script,
                host=args.host,
                port=args.port and args.port + offset,
            )
            for offset, name in enumerate(args.profiles)
        ]
    except (ConfigError, ValueError) as error:
        return _refused(str(error))
    try:
        return asyncio.run(_serve(endpoints))
    except OSError as error:
        return _refused(str(error))


async def _serve(endpoints: Sequence[Endpoint]) -> int:
    """Until a signal comes; 1 after a defect of the emulator's own."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopping.set)
    async with AsyncExitStack() as stack:
        for served in endpoints:
            served.open()
            stack.push_async_callback(served.close)
        _announce(endpoints)
        await stopping.wait()
    defects = [defect for served in endpoints for defect in served.defects]
    for defect in defects:
        print(f"gateway emulate: a defect of the emulator: {defect!r}", file=sys.stderr)
    return 1 if defects else 0


def _announce(endpoints: Sequence[Endpoint]) -> None:
    """The addresses, and what to put into a gateway's config."""
    lines = ["endpoints:"]
    for served in endpoints:
        profile = served.profile
        lines += [
            f"  {profile.name}:",
            f"    dialect: {profile.name.replace('-', '_')}",
            f"    base_url: {served.url}",
            *(f"    {name}: {value}" for name, value in profile.credentials.items()),
            f"    models: {{rehearsed: {profile.model}}}",
        ]
    for served in endpoints:
        print(f"# {served.profile.name}: our reading of {served.profile.reads}")
        print(f"#   bill {served.origin}/emulator/bill, faults {served.origin}/emulator/faults")
    print("\n".join(lines), flush=True)


def _list() -> int:
    from gateway.emulator.page import behaviours_table, knobs_table, profiles_table

    print(profiles_table(), behaviours_table(), knobs_table(), sep="\n", end="")
    return 0


def _refused(message: str) -> int:
    print(f"gateway emulate: {message}", file=sys.stderr)
    return 2


def _port(text: str) -> int:
    if not 0 <= (value := int(text)) <= LAST_PORT:
        raise argparse.ArgumentTypeError(f"must be from 0 to {LAST_PORT}")
    return value


def _speed(text: str) -> float:
    if not 0 < (value := float(text)) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be above 0, and at most 1000000")
    return value
