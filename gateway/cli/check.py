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


def _check_model(file: Path, name: str, model: str) -> None:
    """A name of the catalog may still be pulled; a path must be there. Raises ConfigError."""
    from gateway.config import ConfigError
    from gateway.models import CATALOG, ModelError, find

    if model not in {known.name for known in CATALOG}:
        try:
            find(model)
        except ModelError as error:
            raise ConfigError(file, None, ("replicas", name, "model"), str(error)) from None


def run(args: argparse.Namespace) -> int:
    from gateway.config import ConfigError, load
    from gateway.config.doubts import doubts
    from gateway.configured import tokenizers

    try:
        config, rules = load(args.file)
        if config.unusable:
            raise ConfigError(args.file, None, ("endpoints",), config.unusable)
        for name, replicas in config.replicas.items():
            _check_model(args.file, name, replicas.model)
        tokenizers(config, args.file)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    left_out = [f"{n} (no {e.missing})" for n, e in config.endpoints.items() if e.missing]
    names = ", ".join(rules.policies)
    policies = f"policy {names}" if len(rules.policies) == 1 else f"policies {names}"
    print(f"{args.file} is good: {policies}, {len(config.keys)} keys")
    print(f"replicas: {', '.join(config.replica_names()) or 'none'}")
    print(
        f"endpoints: {', '.join(n for n, e in config.endpoints.items() if not e.missing) or 'none'}"
    )
    for doubt in doubts(config, date.today()):
        print(doubt)
    if left_out:
        print(f"left out: {', '.join(left_out)}")
    return 0
