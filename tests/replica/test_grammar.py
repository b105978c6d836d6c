"""What a grammar allows, as llguidance and the engine keep to it."""

from __future__ import annotations

import json
import random
from array import array
from itertools import count
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator

from gateway.errors import InvalidRequest
from gateway.replica.engine import Engine
from gateway.replica.grammar import Grammar, Grammars, any_json
from gateway.replica.request import Counts, Finish, Output, Submission
from gateway.replica.sampling import Sampling
from gateway.replica.text import Tokenizer
from tests.support.fake_backend import FakeBackend
from tests.support.schemas import random_schema
from tests.support.tiny_text import IM_END, tiny_metadata

TOKENIZER = Tokenizer(tiny_metadata())
GRAMMARS = Grammars(TOKENIZER)
PROMPT = tuple(range(10, 30))
NUMBER = {"type": "integer", "minimum": 100, "maximum": 999}
LETTERS = {"type": "string", "pattern": "^[a-f]{20}$"}


class Told:
    """One sequence: what it is told."""

    numbers = count()

    def __init__(self, schema: dict[str, Any] | None, *, said: tuple[int, ...] = (), **more: Any):
        self.tokens = array("i", said)
        self.finish: Finish | None = None
        self.errors: list[Exception] = []
        constraint = None
        if schema is not None:
            grammar = GRAMMARS.read(f"start: {any_json(schema)}", "response_format")
            constraint = grammar.begin(said)
        sampling = {"temperature": 1.5, "max_tokens": 200, "stop_tokens": TOKENIZER.stop_tokens}
        self.submission = Submission(
            id=f"r{next(self.numbers)}",
            prompt=PROMPT,
            sampling=Sampling(**{**sampling, **more}),
            on_token=self._on_token,
            on_finish=self._on_finish,
            on_error=self.errors.append,
            continued=said,
            constraint=constraint,
        )

    @property
    def text(self) -> str:
        return b"".join(map(TOKENIZER.bytes_of, self.tokens)).decode()

    def _on_token(self, output: Output) -> bool:
        self.tokens.append(output.token)
        return False

    def _on_finish(self, finish: Finish, counts: Counts) -> None:
        self.finish = finish


def run(*sequences: Told, **settings: Any) -> Engine:
    blocks = settings.pop("blocks", 64)
    engine = Engine(FakeBackend(vocabulary=TOKENIZER.vocabulary, blocks=blocks), **settings)
    engine.submit(*(sequence.submission for sequence in sequences))
    while engine.step():
        engine.check_integrity()
    assert not [error for sequence in sequences for error in sequence.errors]
    return engine


def test_what_a_model_of_noise_says_under_200_random_schemas_is_valid() -> None:
    rng = random.Random(1)
    schemas = [random_schema(rng) for _ in range(200)]
    told = [Told(schema, seed=i, max_tokens=230) for i, schema in enumerate(schemas)]
    for start in range(0, 200, 20):
        run(*told[start : start + 20])
    whole = [sequence for sequence in told if sequence.finish is Finish.STOP]
    assert len(whole) > 150
    for sequence, schema in zip(told, schemas, strict=True):
        if sequence.finish is Finish.STOP:
            Draft202012Validator(schema).validate(json.loads(sequence.text))


def test_an_answer_ends_where_its_grammar_does_without_another_token() -> None:
    sequence = Told(NUMBER, stop_tokens=frozenset())
    run(sequence)
    assert sequence.finish is Finish.STOP
    assert 100 <= int(sequence.text) <= 999
    assert len(sequence.tokens) == 3


def test_an_answer_that_may_go_on_ends_with_the_models_own_end() -> None:
    sequence = Told({"type": "integer", "minimum": 1}, seed=3)
    run(sequence)
    assert sequence.finish is Finish.STOP
    assert sequence.tokens[-1] in TOKENIZER.stop_tokens
    assert int(sequence.text) >= 1


def test_neighbours_do_not_notice() -> None:
    alone, beside = (Told(None, seed=5, max_tokens=40) for _ in range(2))
    run(alone)
    run(beside, *(Told(LETTERS, seed=i) for i in range(5)))
    assert alone.tokens == beside.tokens


def test_the_answer_is_the_same_in_any_batch_after_preemption_and_from_the_cache() -> None:
    letters = {"type": "string", "pattern": "^[a-f]{60}$"}
    alone, crowded, last = (Told(letters, seed=7) for _ in range(3))
    run(alone)
    others = [Told(letters, seed=i) for i in range(8, 12)]
    engine = run(crowded, *others, blocks=11)
    assert engine.stats().preemptions > 0
    assert alone.tokens == crowded.tokens
    engine.submit(last.submission)
    while engine.step():
        pass
    assert last.tokens == alone.tokens
    assert len({sequence.text for sequence in (alone, *others)}) == 5


def test_the_answer_goes_on_from_any_of_its_tokens() -> None:
    whole = Told(LETTERS, seed=7)
    run(whole)
    for cut in range(1, len(whole.tokens)):
        rest = Told(LETTERS, seed=7, said=tuple(whole.tokens[:cut]))
        run(rest)
        assert rest.tokens == whole.tokens


def test_tokens_that_the_grammar_does_not_have_cannot_be_continued() -> None:
    with pytest.raises(InvalidRequest) as caught:
        Told(LETTERS, said=(IM_END, 50))
    assert caught.value.param == "continue_token_ids"


def test_nor_can_tokens_that_the_model_does_not_have() -> None:
    grammar = GRAMMARS.read(f"start: {any_json(NUMBER)}", "response_format")
    for token in (TOKENIZER.vocabulary, 1 << 40, 1 << 80):
        with pytest.raises(InvalidRequest, match="are not of an answer under this grammar"):
            grammar.begin((token,))


def test_biases_and_penalties_choose_among_what_is_allowed() -> None:
    (letter,) = TOKENIZER.encode("c")
    (outside,) = TOKENIZER.encode("z")
    biased = Told(LETTERS, seed=1, logit_bias={letter: 100.0, outside: 100.0})
    run(biased)
    assert biased.text == '"' + "c" * 20 + '"'
    for sampling in ({"temperature": 0}, {"top_k": 1}, {"top_p": 0.1}, {"min_p": 0.9}):
        held = Told(LETTERS, repetition_penalty=1.5, **sampling)
        run(held)
        Draft202012Validator(LETTERS).validate(json.loads(held.text))


def test_a_sequence_whose_grammar_fails_fails_alone() -> None:
    class Broken:
        ended = False

        def mask(self) -> Any:
            return np.zeros(TOKENIZER.vocabulary, np.bool_)

        def take(self, token: int) -> None:
            raise AssertionError("there was none")

    broken, fine = Told(None), Told(LETTERS, seed=7)
    object.__setattr__(broken.submission, "constraint", Broken())
    engine = Engine(FakeBackend(vocabulary=TOKENIZER.vocabulary))
    engine.submit(broken.submission, fine.submission)
    while engine.step():
        engine.check_integrity()
    assert "no token can come next" in str(broken.errors[0])
    assert fine.finish is Finish.STOP


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
        ({"type": "array", "uniqueItems": True}, 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "colour"}, "Unknown format: colour"),
        ({"type": "thing"}, "Invalid type: thing"),
        ({"$ref": "#/$defs/none"}, "Pointer '/$defs/none' does not exist"),
        ({"$ref": "http://example.com/schema"}, "retrieving it failed"),
        ({"type": "integer", "minimum": 5, "maximum": 3}, "Unsatisfiable schema"),
        (
            {
                "type": "object",
                "properties": {f"k{i}": {"type": ["string", "null"]} for i in range(2500)},
            },
            "too many things may come next",
        ),
        ({"enum": [f"v{i}" * 20 for i in range(6000)]}, "characters; 262144 are allowed"),
    ],
)
def test_a_schema_that_cannot_be_kept_to_is_refused_with_the_reason(
    schema: dict[str, Any], why: str
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        GRAMMARS.read(f"start: {any_json(schema)}", "response_format")
    assert why in caught.value.message
    assert "start:" not in caught.value.message
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "schema",
    [
        '{"type": "integer", "exclusiveMinimum": 1e999}',
        f'{{"type": "number", "exclusiveMaximum": 1{400 * "0"}}}',
        '{"properties": {"x": {"const": 1e999}}}',
        '{"maximum": -1e999}',
    ],
)
def test_a_schema_with_a_number_that_nobody_can_hold_is_refused(schema: str) -> None:
    with pytest.raises(InvalidRequest, match="a JSON schema has a number that is too large"):
        any_json(json.loads(schema))


def test_a_schema_cannot_set_how_it_is_read() -> None:
    schema = {"type": "array", "items": NUMBER, "x-guidance": {"whitespace_flexible": True}}
    sequence = Told({**schema, "minItems": 3, "maxItems": 3}, seed=2)
    run(sequence)
    assert sequence.text == json.dumps(json.loads(sequence.text))


@pytest.mark.parametrize("kind", ["integer", "number"])
def test_bounds_hold_whatever_way_a_number_is_written(kind: str) -> None:
    rng = random.Random(3)
    for _ in range(60):
        low = rng.choice((rng.randint(-30, 30), round(rng.uniform(-20, 20), 2)))
        high = low + rng.randint(3, 20)
        bounds = {
            rng.choice(("minimum", "exclusiveMinimum")): low,
            rng.choice(("maximum", "exclusiveMaximum")): high,
        }
        schema = {"anyOf": [{"type": kind, **bounds}]}
        grammar = GRAMMARS.read(f"start: {any_json(schema)}", "x")
        said = {f"{n}{end}" for n in (low, high, 0, 7) for end in ("", ".0", ".00", "0", "e0")}
        for text in said | {str(round(rng.uniform(-35, 50), 2)) for _ in range(10)}:
            if allows(grammar, text):
                Draft202012Validator(schema).validate(json.loads(text))


def allows(grammar: Grammar, text: str) -> bool:
    matcher = grammar.begin()
    for token in TOKENIZER.encode(text):
        if not matcher.mask()[token]:
            return False
        matcher.take(token)
    return matcher.ended or any(matcher.mask()[token] for token in TOKENIZER.stop_tokens)


def test_a_schema_without_an_end_is_refused() -> None:
    schema: dict[str, Any] = {}
    for _ in range(600):
        schema = {"type": "array", "items": schema}
    with pytest.raises(InvalidRequest, match=r"nested too deeply|cannot be kept to"):
        GRAMMARS.read(f"start: {any_json(schema)}", "response_format")
