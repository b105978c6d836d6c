"""Policies from plain mappings: what may be said, and what each mistake is answered with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from gateway.config.load import load_policy
from routing_policies.base import Candidate, Context, RouteRequest
from routing_policies.build import build_policy
from routing_policies.catalog import Catalog, PolicyError, number

GOOD: dict[str, Any] = {"minimize": {"in_flight": 1}, "pick": "lowest"}


def mistake(spec: object, *folders: Path) -> tuple[str, str]:
    """The key path and the message of what is wrong."""
    with pytest.raises(PolicyError) as caught:
        build_policy("mine", spec, Catalog.load(*folders))
    return ".".join(map(str, caught.value.path)), caught.value.message


@pytest.mark.parametrize(
    ("spec", "path", "says"),
    [
        # The policy as a whole.
        (None, "", "a policy is a mapping of filters, limits, hard, minimize, budget, "),
        ([GOOD], "", "a policy is a mapping"),
        (
            GOOD | {"picks": "lowest"},
            "picks",
            "a policy has no 'picks'; it has: filters, limits, hard, minimize",
        ),
        ({"pick": "lowest"}, "", "a policy needs 'minimize'"),
        ({"minimize": {"in_flight": 1}}, "", "a policy needs 'pick'"),
        (GOOD | {"minimize": {}}, "", "a policy needs 'minimize'"),
        # Filters.
        (GOOD | {"filters": "healthy"}, "filters", "filters is a list of names"),
        (GOOD | {"filters": ["healthy", 3]}, "filters.1", "3 is neither a name nor"),
        (GOOD | {"filters": [{"a": {}, "b": {}}]}, "filters.0", "is neither a name nor"),
        (GOOD | {"filters": ["heathy"]}, "filters.0", "no filter is called 'heathy'; there are: "),
        (GOOD | {"filters": ["healthy", "healthy"]}, "filters.1", "'healthy' stands here twice"),
        (
            GOOD | {"filters": [{"healthy": {"certainty": 1}}]},
            "filters.0.healthy.certainty",
            "healthy has no 'certainty'; it takes: no parameters",
        ),
        (
            GOOD | {"pick": {"lowest": {"ties": 1}}},
            "pick.lowest.ties",
            "lowest has no 'ties'; it takes: tie",
        ),
        (
            GOOD | {"pick": {"lowest": {"tie": "half"}}},
            "pick.lowest.tie",
            "'half' is not a number",
        ),
        (
            GOOD | {"pick": {"lowest": {"tie": -1}}},
            "pick.lowest",
            "tie must not be negative",
        ),
        # Objectives.
        (GOOD | {"minimize": "in_flight"}, "minimize", "maps objectives to weights"),
        (GOOD | {"minimize": {"dolars": 1}}, "minimize.dolars", "no objective is called"),
        (GOOD | {"limits": {"ttft": "soon"}}, "limits.ttft", "'soon' is not a number"),
        (GOOD | {"limits": {"ttft": 0}}, "limits.ttft", "must be more than nothing"),
        (GOOD | {"limits": {"total": "3s"}}, "limits.total", "there are: ttft, tpot"),
        (GOOD | {"limits": ["3s"]}, "limits", "maps ttft, tpot to values"),
        (GOOD | {"minimize": {"in_flight": "lots"}}, "minimize.in_flight", "'lots' is not a num"),
        (GOOD | {"minimize": {"in_flight": True}}, "minimize.in_flight", "True is not a number"),
        (GOOD | {"minimize": {"in_flight": None}}, "minimize.in_flight", "None is not a number"),
        (GOOD | {"minimize": {"in_flight": -1}}, "minimize.in_flight", "a weight is not negative"),
        (GOOD | {"minimize": {"in_flight": math.nan}}, "minimize.in_flight", "nan is not a number"),
        (
            GOOD | {"minimize": {"uncached_work": {"weight": 1, "exponent": "x"}}},
            "minimize.uncached_work.exponent",
            "'x' is not a number",
        ),
        (
            GOOD | {"minimize": {"uncached_work": {"exponent": -1}}},
            "minimize.uncached_work",
            "exponent must be from 0 to 1",
        ),
        # The pick.
        (GOOD | {"pick": "highest"}, "pick", "no picker is called 'highest'; there are: l"),
        (GOOD | {"pick": ["lowest"]}, "pick", "is neither a name nor"),
        (GOOD | {"pick": {"lowest": 3}}, "pick", "is neither a name nor"),
        (GOOD | {"pick": {"lowest": {"tie": []}}}, "pick.lowest.tie", "[] is not a number"),
        (GOOD | {"pick": {"lowest": {"tie": "-1%"}}}, "pick.lowest", "tie must not be negative"),
        # The fallback.
        (GOOD | {"fallback": 3}, "fallback", "fallback takes: attempts"),
        (GOOD | {"fallback": {"tries": 3}}, "fallback.tries", "takes: attempts, models"),
        (GOOD | {"fallback": {"attempts": 0}}, "fallback.attempts", "0 is not a number of tries"),
        (GOOD | {"fallback": {"attempts": True}}, "fallback.attempts", "True is not a number of"),
        (GOOD | {"fallback": {"models": "n"}}, "fallback.models", "a list of models' names"),
        (GOOD | {"fallback": {"models": [1]}}, "fallback.models", "a list of models' names"),
        (GOOD | {"fallback": {"resume": 1}}, "fallback.resume", "true or false"),
        (GOOD | {"fallback": {"hedge": 1}}, "fallback.hedge", "hedge takes: after, at_most"),
        (GOOD | {"fallback": {"hedge": {"x": 1}}}, "fallback.hedge.x", "hedge takes"),
        (GOOD | {"fallback": {"hedge": {"after": 0}}}, "fallback.hedge.after", "more than nothing"),
        (GOOD | {"fallback": {"hedge": {"at_most": 2}}}, "fallback.hedge.at_most", "a share"),
        # Hard limits, budgets, classes.
        (GOOD | {"hard": {"cost": 1}}, "hard.cost", "there are: cost_usd, ttft, tpot"),
        (GOOD | {"hard": {"cost_usd": 0}}, "hard.cost_usd", "must be more than nothing"),
        (GOOD | {"limits": {"cost_usd": 1}}, "limits.cost_usd", "there are: ttft, tpot"),
        (GOOD | {"budget": 5}, "budget", "budget takes: dollars_per_hour, patience"),
        (GOOD | {"budget": {"patience": "1m"}}, "budget", "budget needs 'dollars_per_hour'"),
        (GOOD | {"budget": {"dollars": 1}}, "budget.dollars", "budget takes: dollars_per_hour"),
        (
            GOOD | {"budget": {"dollars_per_hour": -1}},
            "budget.dollars_per_hour",
            "must be more than nothing",
        ),
        (GOOD | {"classes": ["batch"]}, "classes", "maps each class to values"),
        (GOOD | {"classes": {"batch": 3}}, "classes.batch", "a class maps objectives"),
        (
            GOOD | {"classes": {"batch": {"dollars": 3}}},
            "classes.batch.dollars",
            "no 'dollars' to override; there are: in_flight, limits, hard",
        ),
        (
            GOOD | {"classes": {"batch": {"in_flight": -3}}},
            "classes.batch.in_flight",
            "a weight is not negative",
        ),
        (
            GOOD | {"classes": {"batch": {"limits": {"ttft": "late"}}}},
            "classes.batch.limits.ttft",
            "'late' is not a number",
        ),
    ],
)
def test_a_mistake_is_named_with_its_key_path(spec: object, path: str, says: str) -> None:
    at, message = mistake(spec)
    assert at == path
    assert says in message


def test_what_is_left_out_has_defaults() -> None:
    policy = build_policy("mine", GOOD, Catalog.load())
    assert policy.filters == {}
    assert policy.fallback.attempts == 3


@pytest.mark.parametrize(
    ("written", "value"),
    [
        (1, 1.0),
        (0.25, 0.25),
        ("3", 3.0),
        ("1%", 0.01),
        ("60ms", 0.06),
        ("3s", 3.0),
        ("10m", 600.0),
        ("1h", 3600.0),
    ],
)
def test_numbers_may_have_units(written: object, value: float) -> None:
    assert number(written) == pytest.approx(value)


@pytest.mark.parametrize("written", ["", "%", "1 d", "inf", "nan%", math.inf, 10**400, True, [1]])
def test_what_is_no_finite_number_is_refused(written: object) -> None:
    with pytest.raises(ValueError, match="is not a number"):
        number(written)


# A user's own parts: a folder laid out like the package's.

AVOIDS = '''
"""Drop endpoints by name."""

from __future__ import annotations

from dataclasses import dataclass

from routing_policies.base import Candidate, RouteRequest


@dataclass(frozen=True)
class Avoids:
    names: list[str]

    def keep(self, request: RouteRequest, candidate: Candidate) -> bool:
        return candidate.endpoint not in self.names
'''
NAME_LENGTH = """
from dataclasses import dataclass

@dataclass(frozen=True)
class NameLength:
    per_letter: float = 1.0
    upside_down: bool = False

    def cost(self, request, candidate, estimate):
        length = len(candidate.endpoint) * self.per_letter
        return 100 - length if self.upside_down else length
"""
LAST = """
from dataclasses import dataclass

@dataclass(frozen=True)
class Last:
    def pick(self, ranked, context):
        return sorted(ranked, key=lambda r: -r.cost)
"""
SHORT_NAMES = """
filters: [{avoids: {names: [bad]}}]
minimize: {name_length: {weight: 2, upside_down: true}}
pick: last
"""


def write(folder: Path, **files: str) -> Path:
    """`write(folder, filters__avoids=…)` makes filters/avoids.py."""
    for name, text in files.items():
        file = folder.joinpath(*name.split("__")).with_suffix(".py")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    return folder


def test_a_users_folder_adds_filters_objectives_and_pickers(tmp_path: Path) -> None:
    write(tmp_path, filters__avoids=AVOIDS, objectives__name_length=NAME_LENGTH, pickers__last=LAST)
    file = tmp_path / "short_names.yaml"
    file.write_text(SHORT_NAMES)
    policy = load_policy(file, Catalog.load(tmp_path))
    names = ["abcd", "bad", "ab", "abc"]
    decision = policy.decide(
        RouteRequest("m", 10),
        [Candidate(name, frozenset("m")) for name in names],
        Context(now=0.0, draw=0.0),
    )
    assert policy.name == "short_names"
    assert [r.candidate.endpoint for r in decision.ranked] == ["ab", "abc", "abcd"]
    assert [r.cost for r in decision.ranked] == [196.0, 194.0, 192.0]
    assert decision.dropped == {"bad": "avoids"}


def test_a_part_may_be_named_by_where_python_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_policies_by_path.py").write_text(AVOIDS)
    monkeypatch.syspath_prepend(tmp_path)
    spec = GOOD | {"filters": [{"my_policies_by_path:Avoids": {"names": ["bad"]}}]}
    policy = build_policy("mine", spec, Catalog.load())
    candidates = [Candidate(name, frozenset("m")) for name in ("bad", "good")]
    decision = policy.decide(RouteRequest("m", 10), candidates, Context(now=0.0, draw=0.0))
    assert decision.dropped == {"bad": "my_policies_by_path:Avoids"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("not.there:Avoids", "not.there cannot be imported: ModuleNotFoundError: No module named"),
        ("routing_policies.filters.healthy:Hale", "must hold a dataclass Hale with a method"),
        ("routing_policies.pickers.lowest:Lowest", "must hold a dataclass Lowest with a method"),
        (":Lowest", " cannot be imported: ValueError: Empty module name"),
    ],
)
def test_a_path_that_leads_to_no_part_is_refused(name: str, says: str) -> None:
    path, message = mistake(GOOD | {"filters": [name]})
    assert path == "filters.0"
    assert says in message


def test_a_part_that_was_edited_is_read_anew(tmp_path: Path) -> None:
    """Within a second, to the same length: Python's own cache of modules would not see it."""
    folder = write(tmp_path, objectives__name_length=NAME_LENGTH)
    assert Catalog.load(folder).build("objectives", "name_length", {}).per_letter == 1.0
    write(tmp_path, objectives__name_length=NAME_LENGTH.replace("1.0", "2.0"))
    assert Catalog.load(folder).build("objectives", "name_length", {}).per_letter == 2.0


def test_a_parameter_without_a_default_must_be_given(tmp_path: Path) -> None:
    folder = write(tmp_path, filters__avoids=AVOIDS)
    assert mistake(GOOD | {"filters": ["avoids"]}, folder) == ("filters.0", "avoids needs 'names'")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"upside_down": "yes"}, "'yes' is not of type bool"),
        ({"upside_down": 1}, "1 is not of type bool"),
        ({"per_letter": "x"}, "'x' is not a number"),
    ],
)
def test_a_users_parameters_are_checked_too(
    tmp_path: Path, given: dict[str, object], says: str
) -> None:
    folder = write(tmp_path, objectives__name_length=NAME_LENGTH)
    path, message = mistake(GOOD | {"minimize": {"name_length": given}}, folder)
    assert path == f"minimize.name_length.{next(iter(given))}"
    assert says in message


@pytest.mark.parametrize(
    ("check", "says"),
    [
        ("{}['bad']", "avoids: KeyError: 'bad'"),
        ("raise SystemExit('no names')", "avoids: SystemExit: no names"),
        ("raise ValueError('names must be some')", "names must be some"),
    ],
)
def test_whatever_a_part_raises_when_it_is_made_is_told_with_its_name(
    tmp_path: Path, check: str, says: str
) -> None:
    folder = write(
        tmp_path, filters__avoids=f"{AVOIDS}\n    def __post_init__(self):\n        {check}"
    )
    spec = GOOD | {"filters": [{"avoids": {"names": []}}]}
    assert mistake(spec, folder) == ("filters.0.avoids", says)


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"filters__healthy": AVOIDS}, "filters already has 'healthy'"),
        ({"filters__avoid": AVOIDS}, "must hold a dataclass Avoid with a method 'keep'"),
        ({"pickers__avoids": AVOIDS}, "must hold a dataclass Avoids with a method 'pick'"),
        ({"filters__avoids": "class Avoids:\n  keep = None"}, "must hold a dataclass Avoids"),
        ({"filters__avoids": AVOIDS.replace("list[str]", "set")}, "'names' has a type that YAML"),
        ({"filters__avoids": AVOIDS.replace("list[str]", "Names")}, "name 'Names' is not defined"),
        ({"filters__avoids": "import not_there"}, "cannot be imported: ModuleNotFoundError: No mo"),
        ({"filters__avoids": "class:"}, "cannot be imported: SyntaxError: invalid syntax"),
        (
            {"filters__avoids": "raise RuntimeError('set FOO first')"},
            "cannot be imported: RuntimeError: set FOO first",
        ),
        ({"filters__avoids": "import sys; sys.exit(3)"}, "cannot be imported: SystemExit: 3"),
        (
            {"filters__avoids": AVOIDS.replace("list[str]", "'list' | None")},
            "cannot be read: TypeError: unsupported operand",
        ),
    ],
)
def test_a_file_that_is_no_part_is_named(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(PolicyError, match=r"\.py") as caught:
        Catalog.load(write(tmp_path, **files))
    assert says in str(caught.value)
    assert str(tmp_path) in str(caught.value)
