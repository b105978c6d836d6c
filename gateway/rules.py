"""Which policy decides a request: the first rule that fits it."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from gateway.domain import CAPABILITIES, InferenceRequest
from gateway.errors import Forbidden
from routing_policies.policy import Policy


@dataclass(frozen=True, slots=True)
class RequestMatch:
    """What must be so of the request itself."""

    stream: bool | None = None
    needs: tuple[str, ...] = ()  # capabilities; it needs all of them
    max_tokens: int | None = None  # it asks for at most so many
    longer_than: int | None = None  # bytes of model, tools and messages
    service_tier: str | None = None

    def __post_init__(self) -> None:
        if not set(self.needs) <= set(CAPABILITIES):
            raise ValueError(f"needs are some of: {', '.join(CAPABILITIES)}")

    def fits(self, request: InferenceRequest) -> bool:
        return (
            self.stream in (None, request.stream)
            and request.needs.issuperset(self.needs)
            and (self.max_tokens is None or _most(request) <= self.max_tokens)
            and (self.longer_than is None or request.prompt_size > self.longer_than)
            and self.service_tier in (None, request.service_tier)
        )


def _most(request: InferenceRequest) -> float:
    return math.inf if request.max_tokens is None else request.max_tokens


@dataclass(frozen=True, slots=True)
class Match:
    """What is said must be so; what is left out may be anything."""

    model: str | None = None
    tenant: str | None = None
    header: dict[str, str] = field(default_factory=dict)
    request: RequestMatch = RequestMatch()

    def fits(self, request: InferenceRequest, headers: Mapping[str, str]) -> bool:
        """`headers` has its names in lower case, or takes them in any."""
        return (
            self.model in (None, request.model)
            and self.tenant in (None, request.tenant)
            and self.request.fits(request)
            and all(headers.get(name.lower()) == value for name, value in self.header.items())
        )


EVERYTHING = Match()


@dataclass(frozen=True, slots=True)
class Rule:
    policy: Policy
    match: Match = EVERYTHING


@dataclass(frozen=True, slots=True)
class Rules:
    """At least one; the last fits everything."""

    rules: Sequence[Rule]

    @property
    def policies(self) -> Mapping[str, Policy]:
        return {rule.policy.name: rule.policy for rule in self.rules}

    def policy_for(
        self,
        request: InferenceRequest,
        headers: Mapping[str, str],
        allowed: Container[str] | None = None,
    ) -> Policy:
        """The first that fits and is allowed to this caller. Raises Forbidden."""
        for rule in self.rules:
            if allowed is not None and rule.policy.name not in allowed:
                continue
            if rule.match.fits(request, headers):
                return rule.policy
        raise Forbidden("this key may use none of the policies that decide this request")


def always(policy: Policy) -> Rules:
    return Rules((Rule(policy),))
