"""The dialects there are: one file each in `dialects/`, found by walking the folder.

`dialects/llama_cpp.py` holds the class `LlamaCpp`; `my_package.module:ClassName` names a dialect
of the operator's own.
"""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from gateway.providers.openai_compatible import OpenAICompatible

FOLDER = Path(__file__).parent / "dialects"


def dialect_names() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("[!_]*.py"))


@cache
def find_dialect(name: str) -> type[OpenAICompatible]:
    """Raises ValueError, naming what there is, but not `name`: it may be a secret out of place."""
    module_name, colon, class_name = name.partition(":")
    if not colon:
        if name not in dialect_names():
            raise ValueError(f"there is no such dialect; known: {', '.join(dialect_names())}")
        module_name = f"gateway.providers.dialects.{name}"
        class_name = "".join(word.capitalize() for word in name.split("_"))
    try:
        dialect = getattr(importlib.import_module(module_name), class_name, None)
    except Exception as exc:  # a rim: it is somebody else's module that runs here
        raise ValueError(f"the dialect's module cannot be imported: {type(exc).__name__}") from exc
    if not isinstance(dialect, type) or not issubclass(dialect, OpenAICompatible):
        raise ValueError(
            "a dialect is named module:Class, a class made from "
            "gateway.providers.openai_compatible.OpenAICompatible"
        )
    return dialect
