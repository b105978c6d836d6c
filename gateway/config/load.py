"""A config file and the policies that it names, checked as one."""

from __future__ import annotations

import dataclasses
import os
from hashlib import sha256
from pathlib import Path

import routing_policies
from gateway.config.bind import Environ, bind
from gateway.config.document import ConfigError, Document, KeyPath
from gateway.config.tree import Config
from gateway.rules import EVERYTHING, Rule, Rules
from routing_policies.build import build_policy
from routing_policies.catalog import KINDS, Catalog, PolicyError
from routing_policies.policy import Policy

PACKAGED = Path(routing_policies.__file__).parent


def load(file: Path, environ: Environ = os.environ) -> tuple[Config, Rules]:
    """Raises ConfigError."""
    document = Document.read(file)
    config = bind(document, Config, environ)
    if config.policies and not config.policies.is_dir():
        raise document.error(("policies",), f"{config.policies} is not a folder")
    folders = [config.policies] if config.policies else []
    try:
        catalog = Catalog.load(*folders)
    except PolicyError as exc:
        raise document.error(("policies",), exc.message) from None
    return config, _rules(document, config, catalog, policy_files(*folders))


def load_policy(file: Path, catalog: Catalog) -> Policy:
    """Raises ConfigError."""
    document = Document.read(file)
    try:
        policy = build_policy(file.stem, document.plain(), catalog)
    except PolicyError as exc:
        raise ConfigError(file, document.line(exc.path), exc.path, exc.message) from None
    return dataclasses.replace(policy, version=sha256(file.read_bytes()).hexdigest()[:12])


def policy_files(*folders: Path) -> dict[str, Path]:
    """Plain name -> file; the operator's replace the package's of the same name."""
    return {
        plain(file.stem): file
        for folder in (PACKAGED, *folders)
        for file in sorted(folder.glob("*.yaml"))
    }


def plain(policy: str) -> str:
    """A policy's name with `_` for `-`: both spellings mean the same file."""
    return policy.replace("-", "_")


def files_behind(file: Path, policies: Path | None) -> list[Path]:
    """Every file that `load` may read for a config with this folder of policies."""
    folders = [PACKAGED, *([policies] if policies else [])]
    parts = [
        part for folder in folders for kind in KINDS for part in (folder / kind).glob("[!_]*.py")
    ]
    return [file, *(policy for folder in folders for policy in folder.glob("*.yaml")), *parts]


def _rules(document: Document, config: Config, catalog: Catalog, files: dict[str, Path]) -> Rules:
    rules = config.policy_rules
    if not rules:
        raise document.error(("policy",), "needs at least one rule")
    listed = not isinstance(config.policy, str)
    built: dict[str, Policy] = {}
    for index, rule in enumerate(rules):
        path: KeyPath = ("policy", index) if listed else ("policy",)
        name = plain(rule.use)
        if name not in files:
            known = ", ".join(sorted(files))
            where = (*path, "use") if listed else path
            raise document.error(where, f"no policy is called {rule.use!r}; known: {known}")
        if (rule.match == EVERYTHING) is not (index == len(rules) - 1):
            raise document.error(path, "the last rule has no match, and every other has one")
        built[name] = built.get(name) or load_policy(files[name], catalog)
    return Rules(tuple(Rule(built[plain(rule.use)], rule.match) for rule in rules))
