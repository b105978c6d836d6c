"""transformers on torch, with the weights packed as the GGUF file has them: MODEL THREADS."""

from __future__ import annotations

import sys
from pathlib import Path
from time import perf_counter

import torch
from transformers import AutoModelForCausalLM, DynamicCache

from benchmarks.contestants.answering import answer


class Transformers:
    def __init__(self, path: Path, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model = AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        ).eval()
        self._cache = DynamicCache()
        self._shape = (0, 0)

    @torch.inference_mode()
    def decode(self, size: int, length: int) -> float:
        """One more token, with its logits, of `size` sequences of `length` tokens."""
        if self._shape != (size, length) or self._cache.get_seq_length() >= length + 64:
            self._cache, self._shape = DynamicCache(), (size, length)
            self._seconds(_ids(size, length))
        return self._seconds(_ids(size, 1))

    @torch.inference_mode()
    def prefill(self, length: int) -> float:
        self._cache, self._shape = DynamicCache(), (0, 0)
        return self._seconds(_ids(1, length))

    def _seconds(self, ids: torch.Tensor) -> float:
        started = perf_counter()
        self._model(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
        return perf_counter() - started


def _ids(size: int, length: int) -> torch.Tensor:
    return torch.arange(size * length).reshape(size, length) * 7 % 4000 + 100


if __name__ == "__main__":
    contestant = Transformers(Path(sys.argv[1]), int(sys.argv[2]))
    answer({"decode": contestant.decode, "prefill": contestant.prefill})
