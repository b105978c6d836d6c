"""`gateway replica`: one model, served from this machine by the project's own engine."""

from __future__ import annotations

import argparse
import os
import sys

from gateway.cli import Subparsers

SECRET_VARIABLE = "GATEWAY_REPLICA_SECRET"


EXAMPLE = f"""\
example:
  gateway replica --model smollm2 --name assistant --port 8100
  curl http://127.0.0.1:8100/v1/chat/completions -H 'content-type: application/json' \\
    -d '{{"model": "assistant", "messages": [{{"role": "user", "content": "Hello!"}}]}}'

routes: /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /health, /stats,
and /metrics for Prometheus. There are no keys: put `gateway serve` in front for whoever is not you.
{SECRET_VARIABLE} in the environment unlocks the fields that only a gateway may send.
"""


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "replica",
        help="serve a model from this machine",
        description="Serve one model from this machine over OpenAI's API.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(func=run)
    _add_model_options(parser)
    _add_address_options(parser)
    _add_engine_options(parser)
    _add_process_options(parser)


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("what it serves")
    group.add_argument(
        "--model",
        required=True,
        metavar="PATH|NAME",
        help="a GGUF file, or a name from `gateway model list`",
    )
    group.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="MODEL_ID",
        help="what clients call the model; may be repeated (default: after the file)",
    )
    group.add_argument(
        "--context",
        type=_positive,
        metavar="TOKENS",
        help="longest prompt and answer together (default: the model's)",
    )


def _add_address_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("where it listens")
    group.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    group.add_argument(
        "--port", type=_port, default=8100, help="0 takes a free one (default: %(default)s)"
    )


def _add_engine_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how it computes")
    group.add_argument(
        "--backend",
        choices=("auto", "cuda", "cpu", "reference"),
        default="auto",
        help="auto is cuda where there is an NVIDIA GPU and torch, else cpu; reference is plain "
        "NumPy, slow, to compare with (default: %(default)s)",
    )
    group.add_argument(
        "--gpu-memory",
        type=_share,
        default=0.9,
        metavar="SHARE",
        help="of the GPU's free memory, for weights and KV (default: %(default)g)",
    )
    group.add_argument(
        "--deterministic",
        action="store_true",
        help="on a GPU: the same answer in any company, so that a broken one can be taken up "
        "elsewhere; slower. On the CPU it always is",
    )
    group.add_argument(
        "--threads",
        type=_positive,
        default=min(2, _cores()),
        help="cores that share each step; with 2 or more, prompts are computed beside answers "
        "(default: 2 where there are two cores, else 1)",
    )
    group.add_argument(
        "--kv-tokens",
        type=_positive,
        metavar="TOKENS",
        help="size of the KV cache: all running requests, and prefixes that may come again "
        "(default: 16384; on a GPU, what fits)",
    )
    group.add_argument(
        "--max-queued",
        type=_positive,
        default=256,
        metavar="REQUESTS",
        help="more are refused with 429 (default: %(default)s)",
    )


def _add_process_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("as a process")
    group.add_argument(
        "--drain",
        type=_seconds,
        default=10.0,
        metavar="SECONDS",
        help="time to finish what runs on SIGTERM or Ctrl-C; a second one ends it at once "
        "(default: %(default)g)",
    )
    group.add_argument(
        "--supervised",
        action="store_true",
        help="tell the parent how it goes on standard output, and end with it",
    )
    group.add_argument(
        "--traces-to",
        metavar="URL",
        help="an OpenTelemetry collector, for spans of requests that a gateway samples "
        "(default: OTEL_EXPORTER_OTLP_ENDPOINT)",
    )
    group.add_argument(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="(default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    try:
        from gateway.replica import main
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gateway"):
            raise  # a defect of ours, and nothing to install
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
            gpu_memory=args.gpu_memory,
            deterministic=args.deterministic,
            supervised=args.supervised,
            log_level=args.log_level,
            traces_to=args.traces_to,
            secret=os.environ.get(SECRET_VARIABLE) or None,
        )
    )


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _share(text: str) -> float:
    if not 0 < (value := float(text)) <= 1:
        raise argparse.ArgumentTypeError("must be above 0 and at most 1")
    return value


def _port(text: str) -> int:
    if not 0 <= (value := int(text)) <= 65_535:
        raise argparse.ArgumentTypeError("must be from 0 to 65535")
    return value


def _seconds(text: str) -> float:
    if not 0 <= (value := float(text)) <= 86_400:
        raise argparse.ArgumentTypeError("must be from 0 to 86400 seconds")
    return value
