"""Models for benchmarks/gpu.py: ours and transformers' of one file, or of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gateway.replica.backends.cuda.backend import CudaBackend, Options
from gateway.replica.backends.cuda.layout import Layer, Model
from gateway.replica.backends.cuda.memory import parameters
from gateway.replica.backends.rope import turns
from gateway.replica.engine import Engine
from gateway.replica.request import Output, Submission
from gateway.replica.sampling import Sampling
from gateway.replica.spec import ModelSpec
from gateway.replica.weights import Weights
from gateway.replica.weights.rope_scaling import plain, scaled

WARM_UP = 8  # steps


def shape(**sizes: int) -> ModelSpec:
    """A Llama of this shape, with rope as Llama 3 has it."""
    frequencies = plain(500_000.0, sizes["head_dim"])
    return ModelSpec(
        architecture="llama",
        rope=scaled(frequencies, 1.0),
        norm_epsilon=1e-5,
        tied_embeddings=False,
        fingerprint="random",
        **sizes,
    )


LLAMA_8B = shape(
    layers=32,
    hidden=4096,
    heads=32,
    kv_heads=8,
    head_dim=128,
    feed_forward=14_336,
    vocabulary=128_256,
    context_length=8192,
)
TINY = shape(
    layers=2,
    hidden=64,
    heads=4,
    kv_heads=2,
    head_dim=16,
    feed_forward=96,
    vocabulary=300,
    context_length=512,
)


@dataclass(frozen=True, slots=True)
class Ours:
    backend: CudaBackend
    itemsize: int

    @classmethod
    def read(cls, path: Path, options: Options) -> Ours:
        return cls(CudaBackend.load(Weights.open(path), options, path.name), options.dtype.itemsize)

    @classmethod
    def random(cls, spec: ModelSpec, options: Options) -> Ours:
        assert options.blocks is not None
        backend = CudaBackend(_random(spec, options), options.blocks, options)
        return cls(backend, options.dtype.itemsize)

    def engine(self) -> Engine:
        return Engine(
            self.backend,
            max_running=min(256, self.backend.max_tokens),
            max_queued=512,
            max_queued_tokens=2**24,
            chunk_tokens=self.backend.max_tokens,
        )

    def decode(self, size: int, length: int, steps: int) -> float:
        """Seconds of a step of `size` answers to prompts of `length` tokens, by the engine."""
        engine, told = self.engine(), [0] * size
        most = WARM_UP + steps + 8
        for row, prompt in enumerate(_ids(size, length, self.backend.spec.vocabulary).tolist()):

            def on_token(output: Output, row: int = row) -> bool:
                told[row] += 1
                return False

            engine.submit(submission(str(row), prompt, most, on_token))
        while min(told) < WARM_UP:
            engine.step()
        started = perf_counter()
        for _ in range(steps):
            engine.step()
        seconds = (perf_counter() - started) / steps
        while engine.step():
            pass
        return seconds

    def prefill(self, length: int, seed: int) -> float:
        """Seconds to the first token of a prompt that nothing is cached of."""
        engine, told = self.engine(), []
        prompt = _ids(1, length, self.backend.spec.vocabulary, seed)[0].tolist()
        engine.submit(submission("p", prompt, 1, lambda output: bool(told.append(output))))
        started = perf_counter()
        while engine.step():
            pass
        return perf_counter() - started

    def step_bytes(self, size: int, length: int) -> int:
        """What a decode step has to read: every weight but the embedding's, and the KV."""
        spec = self.backend.spec
        weights = parameters(spec)
        if not spec.tied_embeddings:
            weights -= spec.vocabulary * spec.hidden
        kv = 2 * size * length * spec.layers * spec.kv_heads * spec.head_dim
        return (weights + kv) * self.itemsize

    def prefill_flops(self, length: int) -> int:
        """Of the layers' matrices alone."""
        spec = self.backend.spec
        embeddings = (1 if spec.tied_embeddings else 2) * spec.vocabulary * spec.hidden
        return 2 * length * (parameters(spec) - embeddings)


class Theirs:
    """transformers, as its own forward pass and cache are used."""

    def __init__(self, model: Any, device: str) -> None:
        self._model = model.to(device).eval()
        self._device = device

    @classmethod
    def read(cls, path: Path, dtype: torch.dtype, device: str) -> Theirs:
        from transformers import AutoModelForCausalLM

        if path.is_dir():
            model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                path.parent, gguf_file=path.name, dtype=dtype
            )
        return cls(model, device)

    @classmethod
    def random(cls, spec: ModelSpec, dtype: torch.dtype, device: str) -> Theirs:
        return cls(transformers_model(spec, dtype, device), device)

    @torch.inference_mode()
    def greedy(self, prompt: Sequence[int], count: int) -> list[int]:
        cache, ids, output = _cache(), torch.tensor([list(prompt)], device=self._device), []
        for _ in range(count):
            ids = self._next(ids, cache)
            output.append(int(ids))
        return output

    @torch.inference_mode()
    def decode(self, size: int, length: int, steps: int) -> float:
        cache = _cache()
        ids = self._next(_ids(size, length, self._model.config.vocab_size).to(self._device), cache)
        for _ in range(WARM_UP):
            ids = self._next(ids, cache)
        synchronise(self._device)
        started = perf_counter()
        for _ in range(steps):
            ids = self._next(ids, cache)
        synchronise(self._device)
        return (perf_counter() - started) / steps

    @torch.inference_mode()
    def prefill(self, length: int, seed: int) -> float:
        ids = _ids(1, length, self._model.config.vocab_size, seed).to(self._device)
        synchronise(self._device)
        started = perf_counter()
        self._next(ids, _cache())
        synchronise(self._device)
        return perf_counter() - started

    def _next(self, ids: Tensor, cache: Any) -> Tensor:
        logits = self._model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        return logits[:, -1:].argmax(-1)


def transformers_model(spec: ModelSpec, dtype: torch.dtype, device: str) -> Any:
    """With random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=spec.vocabulary,
        hidden_size=spec.hidden,
        intermediate_size=spec.feed_forward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context_length,
        rms_norm_eps=spec.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": 500_000.0},
        tie_word_embeddings=False,
        dtype=dtype,
    )
    torch.manual_seed(0)
    with torch.device(device):
        return LlamaForCausalLM._from_config(config, dtype=dtype)


def submission(name: str, prompt: list[int], most: int, on_token: Any) -> Submission:
    def failed(error: Exception) -> None:
        raise error

    sampling = Sampling(temperature=0, max_tokens=most)
    return Submission(name, tuple(prompt), sampling, on_token, lambda finish, counts: None, failed)


def synchronise(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _cache() -> Any:
    from transformers import DynamicCache

    return DynamicCache()


def _ids(size: int, length: int, vocabulary: int, seed: int = 0) -> Tensor:
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, vocabulary, (size, length)))


def _random(spec: ModelSpec, options: Options) -> Model:
    torch.manual_seed(0)
    heads, keys = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim

    def matrix(rows: int, columns: int) -> Tensor:
        values = torch.empty(rows, columns, dtype=options.dtype, device=options.device)
        return values.normal_(std=columns**-0.5)

    def norm() -> Tensor:
        return torch.ones(spec.hidden, dtype=options.dtype, device=options.device)

    layers = [
        Layer(
            attention_norm=norm(),
            qkv=matrix(heads + 2 * keys, spec.hidden),
            qkv_bias=None,
            query_norm=None,
            key_norm=None,
            attention_out=matrix(spec.hidden, heads),
            feed_forward_norm=norm(),
            gate_up=matrix(2 * spec.feed_forward, spec.hidden),
            down=matrix(spec.hidden, spec.feed_forward),
        )
        for _ in range(spec.layers)
    ]
    cosines, sines = turns(np.arange(spec.context_length, dtype=np.int32), spec.rope)
    return Model(
        spec=spec,
        embedding=matrix(spec.vocabulary, spec.hidden),
        layers=layers,
        output_norm=norm(),
        output=matrix(spec.vocabulary, spec.hidden),
        cosines=torch.from_numpy(cosines).to(options.device),
        sines=torch.from_numpy(sines).to(options.device),
    )
