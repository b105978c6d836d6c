"""config.example.yaml is the manual: it loads, and what it shows as comments would load too."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import pytest

from gateway.config import Config, load
from gateway.config.bind import Secret, bind
from gateway.config.document import Document
from gateway.config.tree import Server

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
OPTIONAL_KEY = re.compile(r"^( *)# ?( *)(?=(- )?[\w-]+:( |$))", re.MULTILINE)


@pytest.fixture
def everything(tmp_path: Path) -> Document:
    """The manual with every key that it shows as a comment switched on."""
    shown = EXAMPLE.read_text().replace("policy: cache_aware\n", "")
    shown = shown.replace("keys: []", "keys:").replace("tenants: {}", "tenants:")
    text = OPTIONAL_KEY.sub(r"\1\2", shown)
    file = tmp_path / "config.yaml"
    file.write_text(text)
    return Document.read(file)


def environ() -> dict[str, str]:
    names = re.findall(r"\$\{(\w+)\}", EXAMPLE.read_text())
    return {name: f"the-value-of-{name}" for name in names} | {"REDIS_URL": "redis://localhost"}


def test_it_loads_without_any_variable_set() -> None:
    config, rules = load(EXAMPLE, {})
    assert config.server == Server()  # what the manual shows are the defaults
    assert list(rules.policies) == [config.policy]
    assert config.replicas
    assert all(endpoint.missing for endpoint in config.endpoints.values())


def test_it_loads_with_every_variable_set() -> None:
    config, _ = load(EXAMPLE, environ())
    assert not any(endpoint.missing for endpoint in config.endpoints.values())


def test_what_it_shows_as_comments_is_right_too(everything: Document) -> None:
    config = bind(everything, Config, environ())
    assert len(config.endpoints) > len(load(EXAMPLE, {})[0].endpoints)
    assert config.keys


def test_it_shows_every_key_there_is(everything: Document) -> None:
    assert set(keys_of(Config)) - set(shown(everything.plain(), Config)) == set()


def keys_of(section: type[Any]) -> Iterator[tuple[str, str]]:
    """Every section with each of its keys, this one's and those below."""
    hints = get_type_hints(section)
    for field in fields(section):
        yield section.__name__, field.name
        for inner in sections(hints[field.name]):
            yield from keys_of(inner)


def shown(given: Any, section: type[Any]) -> Iterator[tuple[str, str]]:
    """Those of them that `given` has."""
    hints = get_type_hints(section)
    for name, value in given.items():
        yield section.__name__, name
        for inner in sections(hints[name]):
            for item in children(value, hints[name]):
                yield from shown(item, inner)


def sections(hint: Any) -> Iterator[type[Any]]:
    """The section that a key holds, or holds several of."""
    if isinstance(hint, type) and is_dataclass(hint) and hint is not Secret:
        yield hint
    for part in get_args(hint):
        yield from sections(part)


def children(value: Any, hint: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return list(value.values()) if get_origin(hint) is dict else [value]
