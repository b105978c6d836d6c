"""docs/policies.md is true: its policy builds, and it names every policy and every part."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from gateway.config.load import policy_files
from routing_policies.build import KEYS, build_policy
from routing_policies.catalog import Catalog

PAGE = (Path(__file__).parent.parent / "docs" / "policies.md").read_text()
ANATOMY = yaml.safe_load(PAGE.partition("## Anatomy\n\n```yaml\n")[2].partition("```")[0])


def test_its_policy_builds_and_shows_every_key() -> None:
    policy = build_policy("page", ANATOMY, Catalog.load())
    assert set(ANATOMY) == set(KEYS)
    assert (policy.hard.cost_usd, policy.fallback.models) == (0.05, ("smaller-model",))


def test_it_names_every_policy_and_every_part() -> None:
    parts = (name for names in Catalog.load().parts.values() for name in names)
    names = {name for name in (*policy_files(), *parts) if not name.startswith("peer_")}
    assert names - set(re.findall(r"`(\w+)`", PAGE)) == set()


def test_every_shipped_policy_explains_itself() -> None:
    for name, file in policy_files().items():
        assert file.read_text().startswith("# "), name
