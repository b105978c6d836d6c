"""
What a grammar costs the replica: tokens a second with and without one, of one thread's CPU time.

    python -m benchmarks.grammar [--model smollm2] [--rounds 5] [--tokens 64]
"""

from __future__ import annotations

import argparse
import statistics
from itertools import count
from time import perf_counter, thread_time
from typing import Any

from gateway import models
from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammar, Grammars, any_json
from gateway.replica.main import CHUNK_TOKENS, ReplicaSettings, Status, load_backend
from gateway.replica.request import Submission
from gateway.replica.sampling import Sampling
from gateway.replica.text import Tokenizer
from gateway.replica.weights import Weights

BATCHES = (1, 4, 16)
PROMPT = "Some people, with their names, ages and hobbies, in JSON:\n"

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "hobbies": {"type": "array", "items": {"enum": ["chess", "sailing", "clocks"]}},
    },
    "required": ["name", "age", "hobbies"],
    "additionalProperties": False,
}
PEOPLE: dict[str, Any] = {"type": "array", "items": PERSON, "minItems": 1000}
"""So long that no answer ends before its last token."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--model", default="smollm2", help="a name or the path of a GGUF file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="of each answer")
    arguments = parser.parse_args()
    weights = Weights.open(models.find(arguments.model))
    tokenizer = Tokenizer(weights.metadata)
    begun = perf_counter()
    grammars = Grammars(tokenizer)
    loaded = perf_counter()
    grammar = grammars.read(f"start: {any_json(PEOPLE)}", "schema")
    read = perf_counter()
    print(f"seconds: vocabulary {loaded - begun:.2f}, a schema {read - loaded:.4f}")
    settings = ReplicaSettings(arguments.model, kv_tokens=16_384)
    backend = load_backend(weights, settings, Status(None))
    prompt = tuple(tokenizer.encode_prompt(PROMPT))
    print(f"{'batch':>6}{'free':>10}{'held':>10}   tokens/s of CPU time{'held/free':>12}")
    for size in BATCHES:
        free: list[float] = []
        held: list[float] = []
        for _ in range(arguments.rounds):  # in turn, so that noise meets both
            for told, form in ((free, None), (held, grammar)):
                engine = Engine(backend, chunk_tokens=CHUNK_TOKENS)
                told.append(_speed(engine, prompt, size, arguments.tokens, form))
        ratio = statistics.median(h / f for h, f in zip(held, free, strict=True))
        print(f"{size:6}{statistics.median(free):10.0f}{statistics.median(held):10.0f}", end="")
        print(f"{'':23}{ratio:9.2f}")


def _speed(
    engine: Engine, prompt: tuple[int, ...], size: int, tokens: int, grammar: Grammar | None
) -> float:
    """Decoded tokens a second, once everybody has begun."""
    told = count(1)
    number = 0

    def on_token(output: object) -> bool:
        nonlocal number
        number = next(told)
        return False

    for index in range(size):
        engine.submit(
            Submission(
                id=str(index),
                prompt=prompt,
                sampling=Sampling(temperature=1, seed=index, max_tokens=tokens),
                on_token=on_token,
                on_finish=lambda finish, counts: None,
                on_error=_raise,
                constraint=None if grammar is None else grammar.begin(),
            )
        )
    while number < size:
        engine.step()
    before, started = number, thread_time()
    while engine.step():
        pass
    return (number - before) / (thread_time() - started)


def _raise(error: Exception) -> None:
    raise error


if __name__ == "__main__":
    main()
