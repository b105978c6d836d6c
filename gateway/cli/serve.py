"""`gateway serve`: the gateway, and the replicas that its config names."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.cli import Subparsers

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


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("serve", help="run the gateway")
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML file")
    parser.add_argument("--host", help="instead of the config's server.host")
    parser.add_argument("--port", type=int, help="instead of the config's server.port")
    parser.add_argument("--log-level", default="info", help="debug, info (default), warning, error")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from gateway.app import Gateway
    from gateway.config import ConfigError, load
    from gateway.front.server import ConnectionLimits, server
    from gateway.telemetry.log import configure

    try:
        config, policy = load(args.config)
        given = {"host": args.host, "port": args.port}
        given = {key: value for key, value in given.items() if value is not None}
        config = dataclasses.replace(config, server=dataclasses.replace(config.server, **given))
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    except ValueError as error:  # what the command line made of the config
        print(f"gateway serve: {error}", file=sys.stderr)
        return 2

    configure(args.log_level)
    settings = config.server
    url = f"http://{settings.host}:{settings.port}"
    if not config.keys:
        logger.warning("no keys in the config: everyone on this machine may ask, nobody else can")

    def say_ready(models: Sequence[str]) -> None:
        key = "one of the config's keys" if config.keys else "none needed"
        print(EXAMPLE.format(url=url, key=key, model=models[0]), flush=True)

    gateway = Gateway(config, policy, on_ready=say_ready)
    limits = ConnectionLimits(
        head_s=settings.head_timeout,
        stalled_reader_s=settings.stalled_reader_timeout,
        keep_alive_s=settings.keep_alive,
    )
    web = server(
        gateway.asgi(),
        host=settings.host,
        port=settings.port,
        limits=limits,
        drain_s=settings.drain,
    )
    logger.info("listening on %s", url)
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn's, after it has drained: a good end
        web.run()
    return 0 if web.started else 1
