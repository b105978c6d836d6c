"""A config file and the policy that it names, checked as one."""

from __future__ import annotations

import os
from pathlib import Path

import routing_policies
from gateway.config.bind import Environ, bind
from gateway.config.document import ConfigError, Document
from gateway.config.tree import Config
from routing_policies.catalog import Catalog, PolicyError
from routing_policies.policy import Policy, build_policy

PACKAGED = Path(routing_policies.__file__).parent


def load(file: Path, environ: Environ = os.environ) -> tuple[Config, Policy]:
    """Raises ConfigError."""
    document = Document.read(file)
    config = bind(document, Config, environ)
    folders = [config.policies] if config.policies else []
    for folder in folders:
        if not folder.is_dir():
            raise document.error(("policies",), f"{folder} is not a folder")
    policies = _policies(*folders)
    if config.policy not in policies:
        known = ", ".join(sorted(policies))
        raise document.error(("policy",), f"no policy is called {config.policy!r}; known: {known}")
    try:
        catalog = Catalog.load(*folders)
    except PolicyError as exc:
        raise document.error(("policies",), exc.message) from None
    return config, load_policy(policies[config.policy], catalog)


def load_policy(file: Path, catalog: Catalog) -> Policy:
    """Raises ConfigError."""
    document = Document.read(file)
    try:
        return build_policy(file.stem, document.plain(), catalog)
    except PolicyError as exc:
        raise ConfigError(file, document.line(exc.path), exc.path, exc.message) from None


def _policies(*folders: Path) -> dict[str, Path]:
    """Name -> file; the operator's replace the package's of the same name."""
    return {
        file.stem: file for folder in (PACKAGED, *folders) for file in sorted(folder.glob("*.yaml"))
    }
