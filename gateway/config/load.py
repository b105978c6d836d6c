"""A config file and the policies that it names, checked as one."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path

import routing_policies
from gateway.config.bind import Environ, bind
from gateway.config.document import ConfigError, Document, KeyPath
from gateway.config.tree import Config
from gateway.domain import CLASSES
from gateway.rules import EVERYTHING, Rule, Rules
from routing_policies.build import build_policy
from routing_policies.catalog import KINDS, Catalog, PolicyError
from routing_policies.policy import Policy

PACKAGED = Path(routing_policies.__file__).parent


def load(file: Path, environ: Environ = os.environ) -> tuple[Config, Rules]:
    """Raises ConfigError."""
    document = Document.read(file)
    config = bind(document, Config, environ)
    if config.policies and not os.path.isdir(config.policies):
        raise document.error(("policies",), f"{config.policies} is not a folder")
    folders = [config.policies] if config.policies else []
    try:
        catalog = Catalog.load(*folders)
    except PolicyError as exc:
        raise document.error(("policies",), exc.message) from None
    files = policy_files(*folders)
    rules = _rules(document, config, catalog, files)
    _check_names(document, config, rules)
    for policy in rules.policies.values():
        _check_fallback(files[plain(policy.name)], policy, config.models())
    return config, rules


def load_policy(file: Path, catalog: Catalog) -> Policy:
    """Raises ConfigError."""
    document = Document.read(file)
    try:
        policy = build_policy(file.stem, document.plain(), catalog)
    except PolicyError as exc:
        raise ConfigError(file, document.line(exc.path), exc.path, exc.message) from None
    for name in policy.classes:
        if name not in CLASSES:
            known = ", ".join(CLASSES)
            raise document.error(("classes", name), f"there is no class {name!r}; known: {known}")
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


def known_names(config: Config, rules: Rules) -> Mapping[str, Sequence[str]]:
    """What each scope of a key may name."""
    return {
        "models": config.models(),
        "policies": sorted(rules.policies),
        "endpoints": [*config.replica_names(), *config.endpoints],
    }


def _check_names(document: Document, config: Config, rules: Rules) -> None:
    """A name in a key's scope that means nothing here would lock its holder out, or be no scope."""
    known = known_names(config, rules)
    for index, key in enumerate(config.keys):
        for scope, names in known.items():
            for at, name in enumerate(getattr(key, scope) or ()):
                if name not in names:
                    told = f"there is no {name!r} here; known: {', '.join(names)}"
                    raise document.error(("keys", index, scope, at), told)
    named: list[tuple[KeyPath, str]] = [
        (("cache", "models", model), model) for model in config.cache.models
    ]
    for index, rule in enumerate(config.policy_rules):
        if rule.match.model is not None:
            named.append((("policy", index, "match", "model"), rule.match.model))
    for path, model in named:
        if model not in known["models"]:
            raise document.error(path, _not_served(model, known["models"]))


def _check_fallback(file: Path, policy: Policy, models: list[str]) -> None:
    for at, model in enumerate(policy.fallback.models):
        if model not in models:
            where = ("fallback", "models", at)
            raise Document.read(file).error(where, _not_served(model, models))


def _not_served(model: str, models: Sequence[str]) -> str:
    return f"no endpoint serves {model!r}; known: {', '.join(models)}"


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
