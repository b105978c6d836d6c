"""`gateway ledger`: what was asked, what it cost, and who owes it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    import sqlite3

    from gateway.ledger.report import Bill, Sum

DIMENSIONS = ("tenant", "key", "model", "endpoint", "policy", "ended", "fault", "day", "hour")
FORMATS = ("csv", "jsonl", "replay")


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "ledger",
        help="what was asked, and what it cost",
        description="Sums of a ledger, or its records. The gateway may be running.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the config's ledger.file")
    parser.add_argument(
        "--by",
        default="tenant,model",
        help=f"sum by these, comma between: {', '.join(DIMENSIONS)} (UTC); default tenant,model",
    )
    parser.add_argument(
        "--bills", action="store_true", help="what each endpoint should bill, and on whose word"
    )
    parser.add_argument(
        "--export",
        choices=FORMATS,
        help="every exchange, on standard output; `replay` is for `gateway replay --trace`",
    )
    parser.add_argument("--since", type=_time, default=0.0, metavar="TIME", help="2026-11-23, UTC")
    parser.add_argument("--until", type=_time, metavar="TIME", help="up to this time, without it")
    parser.add_argument("--json", action="store_true", help="sums as JSON instead of a table")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from gateway.ledger.report import bills, sums
    from gateway.ledger.store import LedgerError, opened

    by = [name.strip() for name in args.by.split(",") if name.strip()]
    unknown = [name for name in by if name not in DIMENSIONS]
    if unknown:
        known = ", ".join(DIMENSIONS)
        print(f"gateway ledger: --by knows {known}; not {unknown[0]!r}", file=sys.stderr)
        return 2
    span = (args.since, args.until)
    try:
        with opened(args.file) as connection:
            if args.export:
                _export(args.export, connection, span)
            elif args.bills:
                _show(("endpoint", "billed_by"), bills(connection, *span), as_json=args.json)
            else:
                _show(by, sums(connection, by, *span), as_json=args.json)
    except LedgerError as error:
        print(f"gateway ledger: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()  # whoever read us has seen enough
    return 0


def _export(format_: str, connection: sqlite3.Connection, span: tuple[float, float | None]) -> None:
    from gateway.ledger import export
    from gateway.ledger.store import read

    write = {"csv": export.csv_rows, "jsonl": export.jsonl, "replay": export.replayable}[format_]
    write(read(connection, *span), sys.stdout)


def _show(by: Sequence[str], found: Mapping[tuple[str, ...], Sum | Bill], *, as_json: bool) -> None:
    rows: list[dict[str, object]] = [
        {**dict(zip(by, key, strict=True)), **_numbers(row)} for key, row in found.items()
    ]
    if as_json:
        print(json.dumps(rows, indent=2))
    elif not rows:
        print("nothing in this time")
    else:
        lines = [list(rows[0]), *([_text(value) for value in row.values()] for row in rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            cells = zip(line, widths, strict=True)
            texts = (
                cell.ljust(width) if index < len(by) else cell.rjust(width)
                for index, (cell, width) in enumerate(cells)
            )
            print("  ".join(texts).rstrip())


def _numbers(row: Sum | Bill) -> dict[str, object]:
    numbers: dict[str, object] = asdict(row)
    return numbers | ({"lost_usd": row.lost_usd} if hasattr(row, "lost_usd") else {})


def _text(value: object) -> str:
    return f"{value:.6f}" if isinstance(value, float) else str(value)


def _time(text: str) -> float:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be like 2026-11-23 or 2026-11-23T14:00") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
