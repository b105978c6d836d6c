"""`gateway check FILE`: is this config good? Says what `serve` would say, and starts nothing."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

from gateway.cli import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("check", help="check a config file without starting anything")
    parser.add_argument("file", type=Path, help="the YAML file")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from gateway.config import ConfigError, load
    from gateway.config.prices import price_doubts

    try:
        config, policy = load(args.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    left_out = [f"{n} (no {e.missing})" for n, e in config.endpoints.items() if e.missing]
    print(f"{args.file} is good: policy {policy.name}, {len(config.keys)} keys")
    print(f"replicas: {', '.join(config.replica_names()) or 'none'}")
    print(
        f"endpoints: {', '.join(n for n, e in config.endpoints.items() if not e.missing) or 'none'}"
    )
    for name, endpoint in config.endpoints.items():
        for doubt in price_doubts(endpoint, date.today()):
            print(f"{name}: {doubt}")
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    return 0
