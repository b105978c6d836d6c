"""A canary in a key and one in a prompt, searched for in everything that can be seen."""

import logging

import httpx
import openai
import pytest

from gateway.config.tree import Key, Ledger, Secret, Tracing
from gateway.ledger.export import csv_rows, jsonl, replayable
from gateway.ledger.store import opened, read
from gateway.telemetry.log import JsonLines
from tests.support.collector import collecting
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

KEY, UPSTREAM_KEY = "canary-key-5f1c7b", "canary-upstream-9d2e4a"
ADMIN = "canary-admin-77aa01"
PROMPT, ANSWER = "canary-prompt-31c0de", "canary-answer-8b6f55"
CANARIES = (KEY, UPSTREAM_KEY, ADMIN, PROMPT, ANSWER)
ASK = {
    "model": "m",
    "messages": [{"role": "user", "content": PROMPT}],
    "stop": [PROMPT],
    "user": PROMPT,
}


class Written:
    def __init__(self) -> None:
        self.parts: list[str] = []

    def write(self, text: str) -> None:
        self.parts.append(text)


async def test_no_key_prompt_or_answer_is_in_any_span_log_metric_error_ledger_or_page(
    tmp_path, caplog
):
    caplog.set_level(logging.DEBUG)
    file = tmp_path / "ledger.sqlite"
    keys = (Key("web", Secret(KEY)), Key("boss", Secret(ADMIN), admin=True))
    echo = {"error": {"message": f"bad key {UPSTREAM_KEY} for {PROMPT}"}}
    upstreams = (Upstream(status=401, error=echo), Upstream(pieces=(ANSWER, ANSWER)))
    options = {"keys": keys, "api_key": KEY, "ledger": Ledger(file)}
    endpoint = {"api_key": Secret(UPSTREAM_KEY), "dedicated": True}
    seen: list[str] = []
    async with collecting() as (url, collector):
        async with gateway(
            *upstreams, endpoint=endpoint, tracing=Tracing(endpoint=url), **options
        ) as g:
            await g.sdk.chat.completions.create(**ASK)
            async for _ in await g.sdk.chat.completions.create(**ASK, stream=True):
                pass
            upstreams[1].break_at = 1
            with pytest.raises(openai.APIError) as broken:
                async for _ in await g.sdk.chat.completions.create(**ASK, stream=True):
                    pass
            seen.append(str(broken.value.body))
            upstreams[1].status, upstreams[1].error = 500, echo
            for change in ({}, {"model": PROMPT}, {"n": PROMPT}):
                with pytest.raises(openai.APIStatusError) as refused:
                    await g.sdk.chat.completions.create(**{**ASK, **change})
                if "model" not in change:  # which is told the caller as its own mistake
                    seen.append(refused.value.response.text)
            seen += await pages(g.url)
        seen += [str(export) for export in collector.raw]
    seen += [caplog.text, *(JsonLines().format(record) for record in caplog.records)]
    seen += ledger(file)
    assert len(collector.spans()) >= 12
    assert all(seen), "something was empty, and proves nothing"
    for canary in CANARIES:
        for text in seen:
            assert canary not in text, text[:2000]


async def pages(url: str) -> list[str]:
    paths = ("/metrics", "/dashboard", "/dashboard/api/state", "/dashboard/api/policies", "/health")
    async with httpx.AsyncClient(base_url=url) as client:
        headers = {"authorization": f"Bearer {ADMIN}"}
        answers = [await client.get(path, headers=headers) for path in paths]
    assert [answer.status_code for answer in answers] == [200] * len(paths)
    return [answer.text for answer in answers]


def ledger(file) -> list[str]:
    out = [Written(), Written(), Written()]
    with opened(file) as connection:
        records = list(read(connection))
    for write, to in zip((jsonl, csv_rows, replayable), out, strict=True):
        write(records, to)
    raw = [path.read_bytes().decode("latin-1") for path in file.parent.glob("ledger.sqlite*")]
    return ["".join(written.parts) for written in out] + [text for text in raw if text]
