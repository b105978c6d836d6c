"""`gateway keys`: make, list, rotate and revoke keys in the store that a config names."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    from gateway.admission.key_store import KeyStore, MadeKeys

LIMITS = {
    "requests": "second, minute or day",
    "tokens": "second, minute or day",
    "dollars": "day or month",
}


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser("keys", help="make, list, rotate and revoke API keys")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    create = actions.add_parser("create", help="make a key; it is shown this once")
    create.add_argument("name")
    create.add_argument("--tenant", default="default")
    for scope in ("models", "policies", "endpoints"):
        create.add_argument(f"--{scope}", nargs="+", metavar="NAME", help="only these")
    create.add_argument("--data-policy", metavar="POLICY", help="its endpoints' at least")
    create.add_argument("--request-class", default="standard", metavar="CLASS")
    create.add_argument("--expires", metavar="TIME", help="like 2027-12-31")
    for what, windows in LIMITS.items():
        create.add_argument(
            f"--{what}",
            nargs="+",
            metavar="WINDOW=NUMBER",
            help=f"its limit of {what} in each {windows}",
        )
    create.add_argument("--concurrent", type=int, metavar="NUMBER", help="requests at a time")
    create.add_argument("--explain", action="store_true", help="it may ask why an endpoint was")
    create.add_argument("--admin", action="store_true", help="it may manage keys over HTTP")
    actions.add_parser("list", help="all keys of the store, without the keys themselves")
    for action, text in (("rotate", "another key in its place"), ("revoke", "refuse it")):
        one = actions.add_parser(action, help=f"{text}, everywhere within seconds")
        one.add_argument("id", help="the key's id or name")
    for name, chosen in actions.choices.items():
        chosen.add_argument("--config", type=Path, required=True, metavar="FILE")
        chosen.set_defaults(func=run, action=name)


def run(args: argparse.Namespace) -> int:
    from gateway.config import ConfigError
    from gateway.errors import GatewayError

    try:
        return asyncio.run(_run(args))
    except (ConfigError, GatewayError, OSError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1


async def _run(args: argparse.Namespace) -> int:
    from gateway.admission.key_store import KeyFile, MadeKeys
    from gateway.config import ConfigError, load
    from gateway.config.load import known_names
    from gateway.state.connect import connect
    from gateway.state.keys import RedisKeys

    config, rules = load(args.config)
    state, named = config.state, {key.name for key in config.keys}

    def keys(store: KeyStore) -> MadeKeys:
        return MadeKeys(store, lambda: named, lambda: known_names(config, rules))

    if state.redis is not None:
        redis = connect(state.redis.value)
        try:
            return await _act(args, keys(RedisKeys(redis)))
        finally:
            await redis.aclose()
    if state.keys_file is not None:
        return await _act(args, keys(KeyFile(state.keys_file)))
    raise ConfigError(args.config, None, ("state",), "names no key store: set redis or keys_file")


def _limits(args: argparse.Namespace) -> dict[str, object]:
    """As the admin API takes them. Raises InvalidRequest."""
    from gateway.errors import InvalidRequest

    limits: dict[str, object] = {"concurrent": args.concurrent}
    for what in LIMITS:
        each: dict[str, float] = {}
        for given in getattr(args, what) or ():
            window, _, number = given.partition("=")
            try:
                each[window] = float(number)
            except ValueError:
                raise InvalidRequest(f"--{what} takes WINDOW=NUMBER, not {given!r}") from None
        limits[what] = each
    return limits


async def _act(args: argparse.Namespace, keys: MadeKeys) -> int:
    match args.action:
        case "create":
            scopes = (
                "name",
                "tenant",
                "models",
                "policies",
                "endpoints",
                "data_policy",
                "request_class",
                "expires",
            )
            given = {name: getattr(args, name) for name in (*scopes, "explain", "admin")}
            given["limits"] = _limits(args)
            record, key = await keys.create({k: v for k, v in given.items() if v is not None})
            print(f"{record.id}  {record.name}\n{key}")
        case "list":
            for record in await keys.every():
                print(json.dumps(record.shown()))
        case "rotate":
            record, key = await keys.rotate(args.id)
            print(f"{record.id}  {record.name}\n{key}")
        case "revoke":
            record = await keys.revoke(args.id)
            print(f"{record.id}  {record.name}  revoked")
    return 0
