"""A tokenizer's metadata as in a GGUF file: the 256 bytes, a few merges, four named tokens."""

from __future__ import annotations

ENDOFTEXT, IM_START, IM_END, THINK = range(4)

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

MERGES = ("h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "l d", "Ġwor ld")


def tiny_metadata(pre: str = "smollm", template: str = CHATML) -> dict[str, object]:
    named = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"]
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = [chr(code) for code in printable] + [chr(256 + i) for i in range(256 - 188)]
    tokens = [*named, *alphabet, *(merge.replace(" ", "") for merge in MERGES)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 3, 3, 4] + [1] * (len(tokens) - 4),
        "tokenizer.ggml.merges": list(MERGES),
        "tokenizer.ggml.bos_token_id": IM_START,
        "tokenizer.ggml.eos_token_id": IM_END,
        "tokenizer.chat_template": template,
    }
