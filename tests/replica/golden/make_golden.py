"""
Greedy continuations by transformers in float32: what the reference backend must reproduce.

    python -m tests.replica.golden.make_golden MODEL.gguf > tests/replica/golden/smollm2.json

Needs the `torch` extra. transformers reads the GGUF file with its own code, so our reader, the
order of the rows in a head and the arithmetic are all checked against another's.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

NEW_TOKENS = 48

PLAIN = (
    "The capital of France is",
    "Once upon a time, in a village at the edge of a dark forest, there lived",
    "def fibonacci(n: int) -> int:\n    ",
    "#include <stdio.h>\n\nint main(void) {\n    for (int i = 0; i < 10; i++) {\n        printf(",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "Die Hauptstadt von Deutschland ist Berlin. Die Stadt hat",
    "La tour Eiffel se trouve à Paris, et",
    "El agua hierve a cien grados y",
    "Roma è la capitale d'Italia; fu fondata",
    "日本の首都は東京です。東京は",
    "1, 1, 2, 3, 5, 8, 13, 21,",
    '{"name": "Ada Lovelace", "born": 1815, "fields": ["mathematics", ',
    "Water is made of hydrogen and oxygen. Each molecule has two atoms of hydrogen and one atom of "
    "oxygen, held together by covalent bonds. Because oxygen pulls the shared electrons harder "
    "than hydrogen does, the molecule has a slightly negative end and two slightly positive ends. "
    "This polarity explains why water dissolves salts, why it climbs in thin tubes, and why ice "
    "floats. In the same way, the bonds between neighbouring molecules",
    "Q: What is 17 + 25?\nA: 42\nQ: What is 30 - 12?\nA: 18\nQ: What is 6 times 7?\nA:",
)

CHATS = (
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "Explain in two sentences why the sky is blue.",
    "Write a Python function that reverses a string.",
    "Übersetze ins Englische: Der Hund schläft unter dem Tisch.",
    "Give me three tips for sleeping better, as a numbered list, and explain each of them briefly "
    "so that a child of ten years would understand it.",
)


def make(path: Path) -> dict[str, object]:
    """The golden file's content."""
    import torch
    import transformers

    torch.set_num_threads(2)
    model, tokenizer = _load(path)
    texts = [(text, False) for text in PLAIN] + [(_chat(text, tokenizer), True) for text in CHATS]
    return {
        "model_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "cases": [_case(text, chat, model, tokenizer) for text, chat in texts],
    }


def _load(path: Path) -> tuple[Any, Any]:
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = LlamaConfig(**load_gguf_checkpoint(str(path), return_tensors=False)["config"])
    model = LlamaForCausalLM(config).float().eval()
    read = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)
    missing, unexpected = model.load_state_dict(read["tensors"], strict=False)
    if missing != ["lm_head.weight"] or unexpected:
        raise SystemExit(f"missing tensors {missing}, unexpected tensors {unexpected}")
    model.tie_weights()
    return model, AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)


def _chat(text: str, tokenizer: Any) -> str:
    messages = [{"role": "user", "content": text}]
    rendered: str = tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True
    )
    return rendered


def _case(text: str, chat: bool, model: Any, tokenizer: Any) -> dict[str, object]:
    import torch

    ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
    made = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=0,
    )
    size = ids.shape[1]
    return {
        "text": text,
        "chat": chat,
        "prompt": made[0, :size].tolist(),
        "output": made[0, size:].tolist(),
    }


def _render(content: dict[str, object]) -> str:
    """JSON with one case a line, so that a change of one shows as one."""
    head = {key: value for key, value in content.items() if key != "cases"}
    lines = [f" {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    cases = content["cases"]
    assert isinstance(cases, list)
    body = ",\n".join("  " + json.dumps(case, ensure_ascii=False) for case in cases)
    return "\n".join(["{", *lines, ' "cases": [', body, " ]", "}"])


if __name__ == "__main__":
    print(_render(make(Path(sys.argv[1]))))
