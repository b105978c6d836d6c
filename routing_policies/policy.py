"""Filter, estimate, weigh, pick: one pure function over a snapshot of the fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from routing_policies.base import (
    NO_LIMITS,
    Candidate,
    Context,
    Filter,
    Limits,
    Objective,
    Picker,
    Ranked,
    RouteRequest,
)
from routing_policies.catalog import Catalog, PolicyError, number
from routing_policies.estimate import estimate


@dataclass(frozen=True, slots=True)
class Decision:
    ranked: Sequence[Ranked]  # first choice first
    dropped: Mapping[str, str]  # endpoint -> the filter that removed it


@dataclass(frozen=True, slots=True)
class Fallback:
    attempts: int = 3  # tries per exchange, the first included


@dataclass(frozen=True, slots=True)
class Policy:
    name: str
    filters: Mapping[str, Filter]
    objectives: Sequence[tuple[float, Objective]]
    picker: Picker
    limits: Limits = NO_LIMITS
    fallback: Fallback = Fallback()

    def decide(
        self, request: RouteRequest, candidates: Sequence[Candidate], context: Context
    ) -> Decision:
        kept = list(candidates)
        dropped: dict[str, str] = {}
        for name, filter_ in self.filters.items():
            dropped |= {c.endpoint: name for c in kept if not filter_.keep(request, c)}
            kept = [c for c in kept if c.endpoint not in dropped]

        ranked = [self._weigh(request, candidate, context) for candidate in kept]
        return Decision(self.picker.pick(ranked, context), dropped)

    def _weigh(self, request: RouteRequest, candidate: Candidate, context: Context) -> Ranked:
        expected = estimate(request, candidate, self.limits, context)
        cost = sum(
            weight * objective.cost(request, candidate, expected)
            for weight, objective in self.objectives
        )
        return Ranked(candidate, expected, cost)


def build_policy(name: str, spec: object, catalog: Catalog) -> Policy:
    """A policy from the plain mapping that its YAML file holds. Raises PolicyError."""
    known = ("filters", "limits", "minimize", "pick", "fallback")
    if not isinstance(spec, Mapping):
        raise PolicyError(f"a policy is a mapping of {', '.join(known)}")
    for key in spec:
        if key not in known:
            raise PolicyError(f"a policy has no {key!r}; it has: {', '.join(known)}", str(key))
    for key in ("minimize", "pick"):
        if not spec.get(key):
            raise PolicyError(f"a policy needs {key!r}")
    return Policy(
        name,
        filters=_filters(spec.get("filters") or [], catalog),
        objectives=_objectives(spec["minimize"], catalog),
        picker=_picker(spec["pick"], catalog),
        limits=_limits(spec.get("limits") or {}),
        fallback=_fallback(spec.get("fallback") or {}),
    )


def _filters(spec: object, catalog: Catalog) -> Mapping[str, Filter]:
    if not isinstance(spec, list):
        raise PolicyError("filters is a list of names", "filters")
    built: dict[str, Filter] = {}
    for index, item in enumerate(spec):
        name, given, path = _named(item, "filters", index)
        if name in built:
            raise PolicyError(f"{name!r} stands here twice", "filters", index)
        built[name] = _build(catalog, "filters", name, given, *path)
    return built


def _objectives(spec: object, catalog: Catalog) -> Sequence[tuple[float, Objective]]:
    """`{name: weight}` or `{name: {weight: 1, parameter: …}}`."""
    if not isinstance(spec, Mapping):
        raise PolicyError("minimize maps objectives to their weights", "minimize")
    built: list[tuple[float, Objective]] = []
    for name, value in spec.items():
        given = dict(value) if isinstance(value, Mapping) else {"weight": value}
        try:
            weight = number(given.pop("weight", 1))
        except ValueError as exc:
            raise PolicyError(str(exc), "minimize", str(name)) from None
        if weight < 0:
            raise PolicyError(f"{weight:g}: a weight is not negative", "minimize", str(name))
        part = _build(catalog, "objectives", str(name), given, "minimize", str(name))
        built.append((weight, part))
    return built


def _picker(spec: object, catalog: Catalog) -> Picker:
    name, given, path = _named(spec, "pick")
    picker: Picker = _build(catalog, "pickers", name, given, *path)
    return picker


def _limits(spec: object) -> Limits:
    """`{ttft: 3s, tpot: 60ms}`: what counts as a miss."""
    if not isinstance(spec, Mapping):
        raise PolicyError("limits maps ttft and tpot to times", "limits")
    given: dict[str, float] = {}
    for key, value in spec.items():
        if key not in ("ttft", "tpot"):
            raise PolicyError(
                f"there is no limit {key!r}; there are: ttft, tpot", "limits", str(key)
            )
        try:
            given[f"{key}_s"] = number(value)
        except ValueError as exc:
            raise PolicyError(str(exc), "limits", key) from None
        if given[f"{key}_s"] <= 0:
            raise PolicyError("a limit is longer than nothing", "limits", key)
    return Limits(**given)


def _fallback(spec: object) -> Fallback:
    if not isinstance(spec, Mapping) or set(spec) - {"attempts"}:
        raise PolicyError("fallback takes: attempts", "fallback")
    attempts = spec.get("attempts", 3)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise PolicyError(f"{attempts!r} is not a number of tries", "fallback", "attempts")
    return Fallback(attempts)


def _named(item: object, *path: str | int) -> tuple[str, Mapping[str, Any], tuple[str | int, ...]]:
    """The name, parameters and key path of `name` or `{name: {parameter: value}}`."""
    if isinstance(item, str):
        return item, {}, path
    if isinstance(item, Mapping) and len(item) == 1:
        name, given = next(iter(item.items()))
        if given is None or isinstance(given, Mapping):
            return str(name), given or {}, (*path, str(name))
    raise PolicyError(f"{item!r} is neither a name nor {{name: {{parameters}}}}", *path)


def _build(
    catalog: Catalog, kind: str, name: str, given: Mapping[str, Any], *path: str | int
) -> Any:
    try:
        return catalog.build(kind, name, given)
    except PolicyError as exc:
        raise PolicyError(exc.message, *path, *exc.path) from None
