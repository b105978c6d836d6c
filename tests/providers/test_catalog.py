"""Dialects are found by their names, the operator's own by where Python finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.providers.catalog import FOLDER, dialect_names, find_dialect
from gateway.providers.openai_compatible import OpenAICompatible

OWN = """
from dataclasses import dataclass
from typing import ClassVar
from gateway.providers.openai_compatible import OpenAICompatible

@dataclass(frozen=True)
class Mine(OpenAICompatible):
    URL: ClassVar[str | None] = "https://mine.test/v1"

class Other:
    pass
"""


def test_each_file_is_a_dialect() -> None:
    assert dialect_names() == sorted(f.stem for f in FOLDER.iterdir() if f.suffix == ".py")[1:]
    for name in dialect_names():
        assert issubclass(find_dialect(name), OpenAICompatible)


def test_an_operators_own_is_named_by_its_import_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "operators_dialects.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    assert find_dialect("operators_dialects:Mine").URL == "https://mine.test/v1"
    for wrong in ("operators_dialects:Other", "operators_dialects:Missing"):
        with pytest.raises(ValueError, match="module:Class"):
            find_dialect(wrong)


@pytest.mark.parametrize("name", ["no_such_module:Mine", "..:Mine", ":Mine"])
def test_what_cannot_be_imported_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be imported"):
        find_dialect(name)


@pytest.mark.parametrize("name", ["cohere", "", "__init__", "../openai", "Openai"])
def test_an_unknown_name_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ValueError, match="there is no such dialect; known: baseten, "):
        find_dialect(name)
