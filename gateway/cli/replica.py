"""`gateway replica`: one model, served from this machine by the project's own engine."""

from __future__ import annotations

import argparse
import os
import sys

from gateway.cli import Subparsers

SECRET_VARIABLE = "GATEWAY_REPLICA_SECRET"


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "replica",
        help="serve a model from this machine",
        description="Serve a model from this machine over OpenAI's API. "
        f"{SECRET_VARIABLE} in the environment unlocks the fields that only a gateway may send.",
    )
    parser.set_defaults(func=run)
    parser.add_argument(
        "--model",
        required=True,
        metavar="PATH|NAME",
        help="a GGUF file, or a name from `gateway model list`",
    )
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="MODEL_ID",
        help="what clients call the model; may be repeated",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument(
        "--port", type=_port, default=8100, help="0 takes a free one (default: %(default)s)"
    )
    _add_engine_options(parser)
    parser.add_argument(
        "--drain",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="time to finish what runs on SIGTERM (default: %(default)g)",
    )
    parser.add_argument(
        "--supervised",
        action="store_true",
        help="tell the parent how it goes on standard output, and end with it",
    )
    parser.add_argument(
        "--log-level", choices=("debug", "info", "warning", "error"), default="info"
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backend", choices=("auto", "cpu", "reference"), default="auto")
    parser.add_argument(
        "--threads",
        type=_positive,
        default=1,
        help="at most so many threads compute (default: %(default)s)",
    )
    parser.add_argument(
        "--context",
        type=_positive,
        metavar="TOKENS",
        help="longest prompt and answer together (default: the model's)",
    )
    parser.add_argument(
        "--kv-tokens",
        type=_positive,
        default=16_384,
        metavar="TOKENS",
        help="size of the KV cache (default: %(default)s)",
    )
    parser.add_argument(
        "--max-queued",
        type=_positive,
        default=256,
        metavar="REQUESTS",
        help="more are refused with 429 (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    try:
        from gateway.replica import main
    except ModuleNotFoundError as error:
        print(
            f"gateway replica: {error.name} is not installed; "
            "run: pip install 'inference-layer[replica]'",
            file=sys.stderr,
        )
        return 2
    return main.run(
        main.ReplicaSettings(
            model=args.model,
            host=args.host,
            port=args.port,
            names=tuple(args.name),
            kv_tokens=args.kv_tokens,
            context=args.context,
            threads=args.threads,
            max_queued=args.max_queued,
            drain_s=args.drain,
            backend=args.backend,
            supervised=args.supervised,
            log_level=args.log_level,
            secret=os.environ.get(SECRET_VARIABLE) or None,
        )
    )


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _port(text: str) -> int:
    if not 0 <= (value := int(text)) <= 65_535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return value


def _seconds(text: str) -> float:
    if not 0 <= (value := float(text)) <= 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to 86400 seconds")
    return value
