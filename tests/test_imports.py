"""What is imported is what is installed: a package left over in an old environment hides it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parent.parent
OURS = {"gateway", "routing_policies", "tests", "benchmarks", "deploy"}
# What `make prove` installs beside the locked packages; its tests alone may import it.
PROVE = {
    *("torch", "triton", "transformers", "fireworks", "together", "groq", "cerebras"),
    *("agents", "pydantic_ai", "langchain_core", "langchain_openai", "langchain_tests"),
}


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def locked(*names: str) -> set[str]:
    """The distributions of these locks."""
    text = "".join((ROOT / "requirements" / name).read_text() for name in names)
    return {name.lower() for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE)}


def strangers(folder: str, distributions: set[str], besides: set[str]) -> dict[str, set[str]]:
    """Modules that none of the distributions holds, and who imports them."""
    holders = packages_distributions()
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in set(imported(path)) - OURS - besides - sys.stdlib_module_names:
            names = {re.sub(r"[-_.]+", "-", name).lower() for name in holders.get(module, ())}
            if not names & distributions:
                found.setdefault(module, set()).add(str(path.relative_to(ROOT)))
    return found


def test_what_serves_imports_only_what_the_runtime_lock_holds() -> None:
    held = locked("runtime.lock")
    assert strangers("gateway", held, {"torch", "triton", "transformers"}) == {}
    assert strangers("routing_policies", held, set()) == {}


def test_tests_import_only_what_the_locks_hold_or_prove_installs() -> None:
    assert strangers("tests", locked("runtime.lock", "dev.lock"), PROVE) == {}
