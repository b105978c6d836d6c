"""The golden continuations, read."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("smollm2.json")


@dataclass(frozen=True, slots=True)
class Case:
    text: str
    prompt: tuple[int, ...]
    output: tuple[int, ...]


def cases() -> list[Case]:
    content = json.loads(FILE.read_text(encoding="utf-8"))
    return [
        Case(case["text"], tuple(case["prompt"]), tuple(case["output"]))
        for case in content["cases"]
    ]
