"""A policy from the plain mapping that its YAML file holds; every mistake with its key path."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeAlias, TypeVar

from routing_policies.base import NO_HARD_LIMITS, NO_LIMITS, Filter, HardLimits, Limits, Objective
from routing_policies.catalog import Catalog, PolicyError, number
from routing_policies.policy import Budget, Fallback, Hedge, Policy

KEYS = ("filters", "limits", "hard", "minimize", "budget", "classes", "pick", "fallback")

AnyLimits = TypeVar("AnyLimits", Limits, HardLimits)
Path: TypeAlias = tuple[str | int, ...]


def build_policy(name: str, spec: object, catalog: Catalog) -> Policy:
    """Raises PolicyError."""
    given = _mapping(spec, f"a policy is a mapping of {', '.join(KEYS)}")
    for key in given:
        if key not in KEYS:
            raise PolicyError(f"a policy has no {key!r}; it has: {', '.join(KEYS)}", str(key))
    for key in ("minimize", "pick"):
        if not given.get(key):
            raise PolicyError(f"a policy needs {key!r}")
    part, parameters, path = _named(given["pick"], "pick")
    policy = Policy(
        name,
        filters=_filters(given.get("filters") or [], catalog),
        objectives=_objectives(given["minimize"], catalog),
        picker=_build(catalog, "pickers", part, parameters, *path),
        limits=_limits(NO_LIMITS, given.get("limits") or {}, "limits"),
        hard=_limits(NO_HARD_LIMITS, given.get("hard") or {}, "hard"),
        budget=_budget(given.get("budget")),
        fallback=_fallback(given.get("fallback") or {}),
    )
    classes = _mapping(given.get("classes") or {}, "classes maps each class to values", "classes")
    built = {str(key): _class(policy, value, "classes", str(key)) for key, value in classes.items()}
    return dataclasses.replace(policy, classes=built)


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


def _objectives(spec: object, catalog: Catalog) -> Mapping[str, tuple[float, Objective]]:
    """`{name: weight}` or `{name: {weight: 1, parameter: …}}`."""
    built: dict[str, tuple[float, Objective]] = {}
    for key, value in _mapping(spec, "minimize maps objectives to weights", "minimize").items():
        given = dict(value) if isinstance(value, Mapping) else {"weight": value}
        path = ("minimize", str(key))
        weight = _at_least_0(given.pop("weight", 1), *path)
        built[str(key)] = (weight, _build(catalog, "objectives", str(key), given, *path))
    return built


def _limits(known: AnyLimits, spec: object, *path: str | int) -> AnyLimits:
    """`{ttft: 3s, tpot: 60ms}`, and `cost_usd` where the limits are hard; what is left out stays
    as in `known`."""
    names = {f.name.removesuffix("_s"): f.name for f in dataclasses.fields(known)}
    given: dict[str, float] = {}
    wanted = f"{path[-1]} maps {', '.join(names)} to values"
    for key, value in _mapping(spec, wanted, *path).items():
        if key not in names:
            raise PolicyError(
                f"there is no limit {key!r}; there are: {', '.join(names)}", *path, str(key)
            )
        given[names[key]] = _above_0(value, *path, key)
    return dataclasses.replace(known, **given) if given else known


def _budget(spec: object) -> Budget | None:
    if spec is None:
        return None
    given = _mapping(spec, "budget takes: dollars_per_hour, patience", "budget")
    for key in given:
        if key not in ("dollars_per_hour", "patience"):
            raise PolicyError("budget takes: dollars_per_hour, patience", "budget", str(key))
    if "dollars_per_hour" not in given:
        raise PolicyError("budget needs 'dollars_per_hour'", "budget")
    return Budget(
        _above_0(given["dollars_per_hour"], "budget", "dollars_per_hour"),
        _above_0(given.get("patience", "1m"), "budget", "patience"),
    )


def _class(policy: Policy, spec: object, *path: str | int) -> Policy:
    """The policy with what a class says otherwise: weights by objective, limits, hard."""
    given = dict(_mapping(spec, "a class maps objectives, limits and hard to values", *path))
    limits = _limits(policy.limits, given.pop("limits", None) or {}, *path, "limits")
    hard = _limits(policy.hard, given.pop("hard", None) or {}, *path, "hard")
    objectives = dict(policy.objectives)
    for key, value in given.items():
        if key not in objectives:
            known = ", ".join((*objectives, "limits", "hard"))
            raise PolicyError(f"there is no {key!r} to override; there are: {known}", *path, key)
        objectives[key] = (_at_least_0(value, *path, key), objectives[key][1])
    return dataclasses.replace(policy, objectives=objectives, limits=limits, hard=hard)


def _fallback(spec: object) -> Fallback:
    known = "attempts, models, resume, hedge"
    given = _mapping(spec, f"fallback takes: {known}", "fallback")
    for key in given:
        if key not in ("attempts", "models", "resume", "hedge"):
            raise PolicyError(f"fallback takes: {known}", "fallback", str(key))
    attempts = given.get("attempts", Fallback().attempts)
    if not isinstance(attempts, int) or isinstance(attempts, bool) or attempts < 1:
        raise PolicyError(f"{attempts!r} is not a number of tries", "fallback", "attempts")
    models = given.get("models") or []
    if not isinstance(models, list) or not all(isinstance(m, str) and m for m in models):
        raise PolicyError("models is a list of models' names", "fallback", "models")
    resume = given.get("resume", True)
    if not isinstance(resume, bool):
        raise PolicyError("resume is true or false", "fallback", "resume")
    return Fallback(attempts, tuple(models), resume, _hedge(given.get("hedge")))


def _hedge(spec: object) -> Hedge | None:
    if spec is None:
        return None
    path = ("fallback", "hedge")
    given = _mapping(spec, "hedge takes: after, at_most", *path)
    for key in given:
        if key not in ("after", "at_most"):
            raise PolicyError("hedge takes: after, at_most", *path, str(key))
    after = given.get("after", "p95")
    after_s = None if after == "p95" else _above_0(after, *path, "after")
    at_most = _above_0(given.get("at_most", Hedge().at_most), *path, "at_most")
    if at_most > 1:
        raise PolicyError("at_most is a share of the requests, like 5%", *path, "at_most")
    return Hedge(after_s, at_most)


def _mapping(spec: object, wanted: str, *path: str | int) -> Mapping[str, Any]:
    if not isinstance(spec, Mapping):
        raise PolicyError(wanted, *path)
    return spec


def _at_least_0(value: object, *path: str | int) -> float:
    try:
        weight = number(value)
    except ValueError as exc:
        raise PolicyError(str(exc), *path) from None
    if weight < 0:
        raise PolicyError(f"{weight:g}: a weight is not negative", *path)
    return weight


def _above_0(value: object, *path: str | int) -> float:
    try:
        limit = number(value)
    except ValueError as exc:
        raise PolicyError(str(exc), *path) from None
    if limit <= 0:
        raise PolicyError("must be more than nothing", *path)
    return limit


def _named(item: object, *path: str | int) -> tuple[str, Mapping[str, Any], Path]:
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
