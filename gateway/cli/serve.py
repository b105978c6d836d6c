"""`gateway serve`: the gateway, and the replicas that its config names."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import functools
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn
    from starlette.types import ASGIApp

    from gateway.config import Config
    from gateway.config.tree import Server
    from gateway.front.drain import Drain
    from gateway.reload import Source
    from gateway.rules import Rules

logger = logging.getLogger("gateway")

EXAMPLE = """
Ready. In another terminal, with `pip install openai`:

    from openai import OpenAI

    client = OpenAI(base_url="{url}/v1", api_key="{key}")
    stream = client.chat.completions.create(
        model="{model}",
        messages=[{{"role": "user", "content": "Write a haiku about the sea."}}],
        stream=True,
    )
    for chunk in stream:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
"""


GC_THRESHOLDS = (20_000, 20, 20)

LOG_LEVELS = ("debug", "info", "warning", "error")


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("serve", help="run the gateway")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML file")
    parser.add_argument("--host", help="instead of the config's server.host")
    parser.add_argument("--port", type=int, help="instead of the config's server.port")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)  # the parent's socket
    parser.add_argument("--log-level", default="info", choices=LOG_LEVELS, metavar="LEVEL")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from gateway.app import Gateway
    from gateway.config import ConfigError
    from gateway.reload import Source
    from gateway.telemetry.log import configure

    # Until it means that the config is to be read, it must not end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    source = Source(args.config, functools.partial(_load, args.config, args.host, args.port))
    try:
        config, rules = source.read()
    except ConfigError as error:
        return _refuse(args, str(error))

    configure(args.log_level, form=config.log.format)
    if args.worker is not None:
        return _work(args, source, config, rules)
    if args.workers < 1:
        print("gateway serve: --workers must be at least 1", file=sys.stderr)
        return 2
    try:
        listener = _listener(config.server)
    except OSError as error:
        where = f"{config.server.host} port {config.server.port}"
        print(f"gateway serve: cannot listen on {where}: {error.strerror}", file=sys.stderr)
        return 1
    if (unusable := _prepare_files(config)) is not None:
        listener.close()
        print(f"gateway serve: {unusable}", file=sys.stderr)
        return 1
    url = _url(listener)
    if not config.keys:
        logger.warning("no keys in the config: everyone on this machine may ask, nobody else can")

    def say_ready(model: str) -> None:
        key = "one of the config's keys" if config.keys else "none needed"
        print(EXAMPLE.format(url=url, key=key, model=model), flush=True)

    if args.workers > 1:
        return _lead(args, config, listener, say_ready)
    try:
        whole = Gateway(config, rules, say_ready, source=source)
    except ConfigError as error:
        listener.close()
        return _refuse(args, f"{args.config}: {error}")
    web = _server(whole.asgi(), config.server, whole.drain)
    logger.info("listening on %s", url)
    return _run(web, listener, source)


def _prepare_files(config: Config) -> str | None:
    """Makes what gateways write to, once and before there are several: SQLite has nobody wait while
    a new file's journal is chosen. Returns why that cannot be."""
    from gateway.files.store import Folder, StoreError
    from gateway.ledger import ledger
    from gateway.ledger.store import LedgerError
    from gateway.state import responses

    try:
        if config.ledger.file is not None:
            ledger.prepare(config.ledger.file)
        if config.files.folder is not None:
            Folder(config.files.folder).close()
        if config.responses.file is not None and config.state.redis is None:
            responses.prepare(config.responses.file)
    except (LedgerError, StoreError, OSError) as error:
        return str(error)
    return None


def _lead(
    args: argparse.Namespace,
    config: Config,
    listener: socket.socket,
    say_ready: Callable[[str], None],
) -> int:
    """The parent of several workers."""
    from gateway.state.embedded import NoServer
    from gateway.workers import CannotStart, Parent, run_parent

    command = [sys.executable, "-m", "gateway", "serve", "--config", str(args.config)]
    command += ["--log-level", args.log_level, "--host", config.server.host]
    patience_s = (config.server.drain_notice or 0.0) + config.server.drain
    parent = Parent(command, args.workers, listener, patience_s, say_ready)
    logger.info("listening on %s, with %d workers", _url(listener), args.workers)
    try:
        return asyncio.run(run_parent(config, parent))
    except NoServer as error:
        print(f"gateway serve: {error}; set state.redis", file=sys.stderr)
        return 1
    except CannotStart as error:
        print(error, file=sys.stderr)
        return error.code


def _work(args: argparse.Namespace, source: Source, config: Config, rules: Rules) -> int:
    """One of several workers, on its parent's socket."""
    from gateway.app import Gateway
    from gateway.config import ConfigError
    from gateway.workers import STATE_URL, replicas_of_parent, say

    try:
        gateway = Gateway(
            config,
            rules,
            functools.partial(say, "ready"),
            source=source,
            state_url=os.environ.get(STATE_URL),
            replicas_elsewhere=replicas_of_parent,
        )
    except ConfigError as error:
        return _refuse(args, f"{args.config}: {error}")
    web = _server(gateway.asgi(), config.server, gateway.drain)
    return _run(web, socket.socket(fileno=args.worker), source)


def _refuse(args: argparse.Namespace, error: str) -> int:
    """Of several workers, the parent says it."""
    if args.worker is None:
        print(error, file=sys.stderr)
    else:
        from gateway.workers import say

        say("failed", error)
    return 2


def _run(web: uvicorn.Server, listener: socket.socket, source: Source) -> int:
    # It would end us at once. Operators send it to have a config read, terminals when they close.
    signal.signal(signal.SIGHUP, lambda number, frame: source.forget())
    # Modules and the config stay: the collector need not walk through them again and again. And an
    # exchange makes some hundred objects, hardly ever in a circle.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    web.run(sockets=[listener])
    return 0 if web.started else 1


def _listener(settings: Server) -> socket.socket:
    """Bound before anything is started, so that a port in use is known at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=2048)


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _load(file: Path, host: str | None, port: int | None) -> tuple[Config, Rules]:
    """The config, with what the command line says instead. Raises ConfigError."""
    from gateway.config import ConfigError, load

    config, rules = load(file)
    if config.unusable:
        raise ConfigError(file, None, ("endpoints",), config.unusable)
    settings = config.server
    try:
        server = dataclasses.replace(
            settings,
            host=settings.host if host is None else host,
            port=settings.port if port is None else port,
        )
        return dataclasses.replace(config, server=server), rules
    except ValueError as error:
        raise ConfigError(file, None, (), f"with --host and --port: {error}") from None


def _server(app: ASGIApp, settings: Server, drain: Drain) -> uvicorn.Server:
    from gateway.front.server import ConnectionLimits, server

    limits = ConnectionLimits(
        head_s=settings.head_timeout,
        stalled_reader_s=settings.stalled_reader_timeout,
        keep_alive_s=settings.keep_alive,
        connections=settings.max_connections,
    )
    return server(
        app,
        host=settings.host,
        port=settings.port,
        limits=limits,
        drain_s=settings.drain,
        drain=drain,
        notice_s=settings.drain_notice or 0.0,
    )
