"""`gateway models`: what a running gateway serves, where, at which price and how fast."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from gateway.cli import Subparsers

KEY = "GATEWAY_API_KEY"
"""The environment variable with the key to ask with: a command line can be seen by others."""

TITLES = (
    *("MODEL", "ENDPOINT", "CONTEXT", "$/M IN", "$/M CACHED", "$/M OUT"),
    *("TTFT", "TOKENS/S", "ERRORS", "CAPABILITIES"),
)
RIGHT = range(2, 9)
"""Columns of numbers."""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "models",
        help="what a running gateway serves, where, at which price and how fast",
        description=f"Asks a running gateway; with keys, ${KEY} is the one to ask with.",
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="%(default)s")
    parser.add_argument("--json", action="store_true", help="as the gateway tells it")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    import httpx

    key = os.environ.get(KEY)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        answer = httpx.get(
            f"{args.url.rstrip('/').removesuffix('/v1')}/v1/models",
            params={"details": "true"},
            headers=headers,
            timeout=10,
        )
        told = answer.json()
        if answer.status_code != 200:
            print(f"gateway models: {told['error']['message']}", file=sys.stderr)
            return 1
        models = told["data"]
    except (httpx.HTTPError, httpx.InvalidURL):
        print(f"gateway models: nobody answers at {args.url}", file=sys.stderr)
        return 1
    except (ValueError, KeyError, TypeError):
        print(f"gateway models: what answers at {args.url} is no gateway", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(models, indent=2))
    else:
        print("\n".join(table([TITLES, *(row for model in models for row in rows(model))])))
    return 0


def rows(model: dict[str, Any]) -> Iterator[Sequence[str]]:
    """One for each endpoint; what is not known is a dash."""
    for endpoint in model["endpoints"]:
        price, measured = endpoint["price_per_million"] or {}, endpoint["measured"] or {}
        each_s = measured.get("seconds_per_token")
        yield (
            model["id"],
            endpoint["name"] + ("" if endpoint["available"] else " (down)"),
            _shown(endpoint["context_length"], ",d"),
            *(_shown(price.get(name), "g") for name in ("input", "cached", "output")),
            _shown(measured.get("ttft_s"), ".3g", "s"),
            _shown(1 / each_s if each_s else None, ".0f"),
            _shown(measured.get("error_rate"), ".1%"),
            ", ".join(endpoint["capabilities"] or ["-"]),
        )


def table(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        padded = (
            cell.rjust(width) if at in RIGHT else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(padded).rstrip()


def _shown(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"
