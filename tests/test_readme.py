"""The README is true: its tree names every module, its commands and files are there."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_tree_names_every_module() -> None:
    tree = README.partition("```\ngateway/\n")[2].partition("```")[0]
    parts = ("filters", "objectives", "pickers", "dialects")  # named as folders: they grow
    modules = [
        path
        for room in ("gateway", "routing_policies")
        for path in (ROOT / room).rglob("*.py")
        if path.name != "__init__.py" and path.parent.name not in parts
    ]
    assert [str(m.relative_to(ROOT)) for m in modules if m.name not in tree] == []


def test_the_tree_names_nothing_else() -> None:
    tree = README.partition("```\ngateway/\n")[2].partition("```")[0]
    names = {path.name for path in ROOT.rglob("*.py") if ".venv" not in path.parts}
    assert set(re.findall(r"\b\w+\.py\b", tree)) <= names


def test_links_and_make_targets_are_there() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / link).exists(), link
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
