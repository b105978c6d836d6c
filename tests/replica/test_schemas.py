"""What the real small model says under random JSON schemas is valid by them."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from gateway import models
from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammar, Grammars, any_json
from gateway.replica.main import CHUNK_TOKENS, ReplicaSettings, Status, load_backend
from gateway.replica.server import Replica, create_app
from gateway.replica.template import ChatTemplate
from gateway.replica.text import Tokenizer
from gateway.replica.weights import Weights
from tests.support.schemas import Schema, random_schema

pytestmark = pytest.mark.anyio

AT_ONCE = 16
MOST_TOKENS = 200
ASK = "Invent an example and answer in JSON by this schema: "


@pytest.fixture(scope="module")
def replica() -> Iterator[Replica]:
    weights = Weights.open(models.find("smollm2"))
    tokenizer = Tokenizer(weights.metadata)
    backend = load_backend(weights, ReplicaSettings("smollm2", kv_tokens=16_384), Status(None))
    engine = Engine(backend, chunk_tokens=CHUNK_TOKENS)
    template = ChatTemplate(str(weights.metadata["tokenizer.chat_template"]), tokenizer)
    engine.start()
    yield Replica(engine, tokenizer, template, Grammars(tokenizer), ("m",), 1)
    engine.stop()
    engine.check_integrity()


async def answers(replica: Replica, schemas: list[Schema]) -> list[dict[str, Any]]:
    """Choices, one for each schema; half of them sampled, half the likeliest tokens."""
    turns = asyncio.Semaphore(AT_ONCE)
    transport = httpx.ASGITransport(create_app(replica))
    async with httpx.AsyncClient(transport=transport, base_url="http://replica") as http:

        async def answer(number: int, schema: Schema) -> dict[str, Any]:
            wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
            body = {
                "model": "m",
                "messages": [{"role": "user", "content": ASK + json.dumps(schema)}],
                "response_format": wanted,
                "max_tokens": MOST_TOKENS,
                "temperature": number % 2,
                "seed": number,
            }
            async with turns:
                said = await http.post("/v1/chat/completions", json=body, timeout=600)
            assert said.status_code == 200, (schema, said.text)
            choice: dict[str, Any] = said.json()["choices"][0]
            return choice

        return await asyncio.gather(*(answer(i, schema) for i, schema in enumerate(schemas)))


async def check(replica: Replica, schemas: list[Schema]) -> int:
    """Every finished answer is valid, every other one a beginning; returns how many were cut."""
    cut = 0
    for schema, choice in zip(schemas, await answers(replica, schemas), strict=True):
        text = choice["message"]["content"]
        if choice["finish_reason"] == "stop":
            Draft202012Validator(schema).validate(json.loads(text))
        else:
            assert choice["finish_reason"] == "length"
            assert begins(replica, schema, text), (schema, text)
            cut += 1
    return cut


def begins(replica: Replica, schema: Schema, text: str) -> bool:
    """Whether the grammar allows this text, however it is cut into tokens."""
    grammar: Grammar = replica.grammars.read(f"start: {any_json(schema)}", "schema")
    matcher = grammar.begin()
    for token in replica.tokenizer.encode(text):
        matcher.take(token)
    return not matcher.failed


async def test_answers_under_random_schemas_are_valid(replica: Replica) -> None:
    rng = random.Random(7)
    assert await check(replica, [random_schema(rng) for _ in range(10)]) <= 2


@pytest.mark.prove
async def test_answers_under_200_random_schemas_are_valid(replica: Replica) -> None:
    rng = random.Random(2026)
    cut = await check(replica, [random_schema(rng) for _ in range(200)])
    print(f"{200 - cut} valid, {cut} cut by their length and valid so far")
    assert cut <= 20
