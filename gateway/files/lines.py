"""A batch's input: one request a line, checked before the first of them is asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from gateway.errors import InvalidRequest
from gateway.files.nouns import Problem
from gateway.wire.strict_json import parse_object

MAX_REQUESTS = 50_000
"""As many as OpenAI takes."""

MAX_PROBLEMS = 100
"""So many are told."""

MAX_LINE = 32 * 1024 * 1024
"""Bytes."""

KEPT_IDS = 512
"""Characters that a custom_id may have."""


@dataclass(frozen=True, slots=True)
class Line:
    number: int  # from 1
    custom_id: str
    body: bytes  # the request's


class BadLine(Exception):
    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.message)
        self.problem = problem


def check(content: BinaryIO, endpoint: str) -> tuple[int, list[Problem]]:
    """How many requests there are, and what is wrong with them."""
    total, problems, seen = 0, list[Problem](), set[str]()
    for number, raw in _numbered(content):
        total += 1
        try:
            line = read_line(number, raw, endpoint)
            if line.custom_id in seen:
                said = f"{line.custom_id!r} stands on an earlier line too"
                raise BadLine(Problem("duplicate_custom_id", said, number, "custom_id"))
            seen.add(line.custom_id)
        except BadLine as bad:
            problems.append(bad.problem)
        if total > MAX_REQUESTS:
            said = f"a batch has at most {MAX_REQUESTS} requests"
            problems.insert(0, Problem("too_many_tasks", said, number))
            break
        if len(problems) >= MAX_PROBLEMS:
            break
    if not total:
        problems.append(Problem("empty_file", "the input file has no requests"))
    return total, problems[:MAX_PROBLEMS]


def lines(content: BinaryIO, endpoint: str) -> Iterator[Line]:
    """Of an input that has been checked."""
    for number, raw in _numbered(content):
        yield read_line(number, raw, endpoint)


def _numbered(content: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Without those that are blank."""
    number = 0
    while raw := content.readline(MAX_LINE + 1):
        number += 1
        if raw.strip():
            yield number, raw
        while len(raw) > MAX_LINE and not raw.endswith(b"\n"):
            raw = content.readline(MAX_LINE + 1)


def read_line(number: int, raw: bytes, endpoint: str) -> Line:
    """Raises BadLine."""

    def bad(code: str, message: str, param: str | None = None) -> BadLine:
        return BadLine(Problem(code, message, number, param))

    if len(raw) > MAX_LINE:
        raise bad("line_too_long", f"the line has more than {MAX_LINE} bytes")
    try:
        fields = parse_object(raw)
    except InvalidRequest as error:
        raise bad("invalid_json_line", error.message) from None
    custom_id, url, body = fields.get("custom_id"), fields.get("url"), fields.get("body")
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= KEPT_IDS:
        said = f"'custom_id' must be a string of 1 to {KEPT_IDS} characters"
        raise bad("missing_custom_id", said, "custom_id")
    if fields.get("method") != "POST":
        raise bad("invalid_method", "'method' must be POST", "method")
    if url != endpoint:
        raise bad("mismatched_endpoint", f"'url' must be the batch's endpoint, {endpoint}", "url")
    if not isinstance(body, dict):
        raise bad("invalid_body", "'body' must be an object", "body")
    for name in ("stream", "background"):
        if body.get(name):
            raise bad("invalid_body", f"{name!r} has no place in a batch", f"body.{name}")
    return Line(number, custom_id, json.dumps(body).encode())
