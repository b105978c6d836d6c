"""
Greedy continuations of tiny models by transformers in float32, one model per architecture.

    python -m tests.replica.golden.make_architectures > tests/replica/golden/architectures.json

Needs the `torch` extra. The models' weights come from a seed (tests/support/tiny_folder.py), so
that the answers can be checked without it.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from gateway.replica.backends.base import Float32
from tests.support.tiny_folder import ARCHITECTURES, VOCABULARY

PROMPT_TOKENS, NEW_TOKENS = 48, 64


def make() -> dict[str, Any]:
    """The golden file's content."""
    with tempfile.TemporaryDirectory() as name:
        return {
            each: _case(load(model.write(Path(name) / str(index))))
            for index, (each, model) in enumerate(ARCHITECTURES.items())
        }


def load(folder: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model: Any, tokens: list[int]) -> Float32:
    """Of every token."""
    import torch

    with torch.no_grad():
        values: Float32 = model(torch.tensor([tokens])).logits[0].numpy()
    return values


def prompt() -> list[int]:
    tokens: list[int] = np.random.default_rng(7).integers(0, VOCABULARY, PROMPT_TOKENS).tolist()
    return tokens


def _case(model: Any) -> dict[str, Any]:
    tokens = prompt()
    for _ in range(NEW_TOKENS):
        values = logits(model, tokens)
        tokens.append(int(values[-1].argmax()))
    return {
        "output": tokens[PROMPT_TOKENS:],
        "last_logits": [round(float(value), 5) for value in values[-1]],
    }


def _render(content: dict[str, Any]) -> str:
    """JSON with one model a line, so that a change of one shows as one."""
    lines = [f" {json.dumps(name)}: {json.dumps(case)}" for name, case in content.items()]
    return "\n".join(["{", ",\n".join(lines), "}"])


if __name__ == "__main__":
    print(_render(make()))
