"""`gateway explain`: where a request would go, and why, in numbers. Sends nothing."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.cli import Subparsers

if TYPE_CHECKING:
    from gateway.app import Gateway
    from gateway.counting import Counter
    from gateway.domain import InferenceRequest


@dataclass(frozen=True, slots=True)
class Row:
    """One candidate that was ranked."""

    endpoint: str
    cost: float  # in the policy's unit
    terms: Mapping[str, float]  # what each objective adds to the cost
    estimate: Mapping[str, float]
    limited: bool  # by its own word it would refuse now: it comes last, whatever it costs


@dataclass(frozen=True, slots=True)
class Explanation:
    policy: str
    model: str
    prompt_tokens: int
    prompt_exact: bool  # counted, and not estimated
    output_tokens: float
    ranked: Sequence[Row]  # first choice first
    margin: float | None  # by which the second costs more; None without a second
    dropped: Mapping[str, str]  # endpoint -> the filter or hard limit that removed it


ESTIMATES = ("ttft_s", "tpot_s", "cost_usd", "p_miss", "cached_tokens", "uncached_tokens")


def add_parser(subparsers: Subparsers) -> None:
    parser = subparsers.add_parser(
        "explain",
        help="say where a request would go, and why",
        description="Decides as a gateway would that has just started: endpoints count as healthy "
        "and idle, speeds are the first guesses, and token counts where no tokenizer is here.",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the YAML file")
    parser.add_argument(
        "--request", type=Path, required=True, metavar="FILE", help="a request's body, as JSON"
    )
    parser.add_argument("--tenant", default="default", help="who asks, for the config's rules")
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        type=_header,
        metavar="NAME:VALUE",
        help="a header of the request, for the config's rules; may be repeated",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.set_defaults(func=run)


def run(args: argparse.Namespace) -> int:
    from gateway.app import Gateway
    from gateway.config import ConfigError, load
    from gateway.errors import InvalidRequest

    try:
        gateway = Gateway(*load(args.config))
        explained = explain(gateway, _request(args.request, args.tenant), dict(args.header))
    except (ConfigError, OSError, InvalidRequest) as error:
        print(f"gateway explain: {error}", file=sys.stderr)
        return 2
    plain = dataclasses.asdict(explained)
    print(json.dumps(plain, indent=2) if args.json else table(explained))
    return 0


def explain(gateway: Gateway, request: InferenceRequest, headers: Mapping[str, str]) -> Explanation:
    """The decision about `request`. Raises InvalidRequest for a model that nobody serves."""
    from gateway.errors import InvalidRequest
    from routing_policies.base import Context

    models = gateway.fleet.models()
    if request.model not in models:
        known = ", ".join(models)
        raise InvalidRequest(f"no model is called {request.model!r}; there are: {known}")
    policy = gateway.rules.policy_for(request, headers)
    if (count := counters(gateway).get(request.model)) and (tokens := count(request)) is not None:
        request = dataclasses.replace(request, prompt_tokens=tokens)
    asked, candidates, _ = gateway.fleet.snapshot(request)
    healthy = [candidate._replace(healthy=True, unavailable=None) for candidate in candidates]
    decision = policy.decide(asked, healthy, Context(now=gateway.clock(), draw=0.0))
    costs = [ranked.cost for ranked in decision.ranked[:2]]
    return Explanation(
        policy.name,
        request.model,
        asked.prompt_tokens,
        asked.prompt_exact,
        asked.output_tokens,
        [
            Row(
                r.candidate.endpoint,
                r.cost,
                policy.terms(asked, r),
                r.estimate._asdict(),
                r.candidate.limited,
            )
            for r in decision.ranked
        ],
        costs[1] - costs[0] if len(costs) == 2 else None,
        decision.dropped,
    )


def counters(gateway: Gateway) -> Mapping[str, Counter]:
    """Of the models whose tokenizer is here: named in the config, or that of a replica's model."""
    from gateway.models import ModelError
    from gateway.tokenizers import counter

    found = dict(gateway.dispatcher.tokenizers)
    for name, replicas in gateway.config.replicas.items():
        with contextlib.suppress(ModelError):  # not pulled yet: the estimate has to do
            found.setdefault(replicas.serves or name, counter(replicas.model))
    return found


def table(explained: Explanation) -> str:
    """For people: candidates in the order of choice, with what each objective adds."""
    terms = explained.ranked[0].terms if explained.ranked else ()
    lines = [["endpoint", "cost", *terms, *ESTIMATES]]
    for row in explained.ranked:
        estimates = (row.estimate[name] for name in ESTIMATES)
        numbers = (row.cost, *row.terms.values(), *estimates)
        lines.append([row.endpoint, *(f"{number:.6g}" for number in numbers)])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        f"policy {explained.policy}, model {explained.model}: {explained.prompt_tokens} prompt "
        f"tokens ({'exact' if explained.prompt_exact else 'estimated'}), "
        f"{explained.output_tokens:g} expected in the answer",
        *("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines),
    ]
    if explained.margin is not None:
        first, second = explained.ranked[:2]
        text.append(_margin(first, second, explained.margin))
    text += [
        f"{row.endpoint} comes last, whatever it costs: it says that it would refuse now"
        for row in explained.ranked
        if row.limited
    ]
    text += [f"{endpoint} was dropped by {by}" for endpoint, by in explained.dropped.items()]
    return "\n".join(text)


def _margin(first: Row, second: Row, margin: float) -> str:
    more = f"{margin:.6g} more" if margin >= 0 else f"{-margin:.6g} less"
    return f"{first.endpoint} comes before {second.endpoint}, which costs {more}"


def _request(file: Path, tenant: str) -> InferenceRequest:
    from gateway.domain import Operation
    from gateway.wire.openai import ASKED, TenantKeys, parse_request

    raw = file.read_bytes()
    named = (op for op, field in ASKED.items() if f'"{field}"'.encode() in raw)
    operation = next(named, Operation.COMPLETION)
    return parse_request(operation, raw, TenantKeys.derive(b"", tenant))


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon:
        raise argparse.ArgumentTypeError("must be NAME:VALUE")
    return name.strip().lower(), value.strip()
