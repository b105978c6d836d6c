"""The command line: `gateway COMMAND`, or `python -m gateway COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from gateway.cli import check, emulate, explain, keys, ledger, model, models, replay, replica, serve
from gateway.version import installed_version

COMMANDS = (serve, check, explain, keys, replica, model, models, replay, emulate, ledger)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; `argv` without the program's name. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="gateway",
        description="One gateway in front of every place that can run an open model.",
    )
    parser.add_argument("--version", action="version", version=f"gateway {installed_version()}")
    parser.set_defaults(func=None)
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)

    args = parser.parse_args(argv)
    if args.func is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return int(args.func(args))
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as a shell reports it


if __name__ == "__main__":
    sys.exit(main())
