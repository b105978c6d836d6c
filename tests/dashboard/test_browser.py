"""A real browser looks at the dashboard while traffic runs."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import openai
import pytest

from gateway.config.tree import Endpoint, Key, ModelMap, ModelPrice, Secret, Tenant
from tests.support.browser import Page, browsing
from tests.support.gateways import Running, gateway
from tests.support.serving import serving
from tests.support.upstream import Upstream

pytestmark = [pytest.mark.anyio, pytest.mark.prove]

DOCS = Path(__file__).parents[2] / "docs"
KEYS = (Key("boss", Secret("12345678-boss"), admin=True),)
PRICES = {"m": ModelPrice(input=0.6, cached=0.15, output=0.9)}
HAIKU = (
    "Grey ",
    "waves ",
    "fold ",
    "the ",
    "light,\n",
    "salt ",
    "on ",
    "every ",
    "patient ",
    "stone—\n",
)
QUESTIONS = [f"Question {i}: {'why is the sea salt? ' * (1 + i % 7)}" for i in range(12)]


def endpoints() -> tuple[Upstream, ...]:
    return (
        Upstream(pieces=HAIKU, gap_s=0.02, delay_s=0.05),
        Upstream(pieces=HAIKU, gap_s=0.03, delay_s=0.12, cached_tokens=8),
        Upstream(pieces=HAIKU, gap_s=0.01, delay_s=0.3),
    )


@asynccontextmanager
async def traffic(g: Running, at_once: int = 4) -> AsyncIterator[None]:
    draw = random.Random(1)

    async def on_and_on() -> None:
        while True:
            with contextlib.suppress(openai.APIError):
                answer = await g.sdk.chat.completions.create(
                    model="m",
                    messages=[{"role": "user", "content": draw.choice(QUESTIONS)}],
                    stream=True,
                    stream_options={"include_usage": True},
                )
                async for _ in answer:
                    pass
            await asyncio.sleep(draw.uniform(0, 0.3))

    tasks = [asyncio.create_task(on_and_on()) for _ in range(at_once)]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


ANSWERED = "Number(document.querySelectorAll('#totals dd')[2]?.firstChild?.data)"


async def open_with_key(page: Page, url: str) -> None:
    await page.go(f"{url}/dashboard")
    await page.until("document.activeElement?.id === 'key'")
    await page.call("Input.insertText", text="12345678-boss")
    await page.press("Enter", text="\r")
    await page.until("!document.getElementById('content').hidden")


async def test_numbers_move_a_dead_endpoint_turns_red_and_the_playground_answers(tmp_path):
    policy = {"policy": "round_robin", "keys": KEYS, "api_key": "12345678-boss"}
    *living, mortal = endpoints()
    async with (
        AsyncExitStack() as life,
        gateway(
            *living,
            f"{await life.enter_async_context(serving(mortal))}/v1",
            endpoint={"prices": PRICES},
            **policy,
        ) as g,
        browsing() as page,
        traffic(g),
    ):
        await page.look(1280, 900)
        await open_with_key(page, g.url)

        before = await page.until(ANSWERED)
        await page.until(f"{ANSWERED} > {before}")
        assert await page.js("document.querySelectorAll('.u-wrap canvas').length") == 4

        assert await page.js("document.querySelectorAll('tr.down').length") == 0
        await life.aclose()
        await page.until("document.querySelector('tr.down')?.dataset.endpoint === 'u2'", 40)
        red = await page.js(
            "getComputedStyle(document.querySelector('tr.down .dot')).backgroundColor"
        )
        green = await page.js(
            "getComputedStyle(document.querySelector('tr.up .dot')).backgroundColor"
        )
        assert red != green

        await page.js("document.getElementById('prompt').focus()")
        await page.press("Enter", text="\r", modifiers=2)  # Ctrl
        await page.until("document.getElementById('answer').textContent.includes('stone')")
        routed = await page.until(
            "!document.getElementById('send').disabled && "
            "document.getElementById('routed').innerText"
        )
        assert "u0" in routed or "u1" in routed
        assert "round_robin" in routed

        await page.until("document.querySelectorAll('details.decision').length > 3")
        await page.js("document.querySelector('details.decision summary').focus()")
        await page.press("Enter", text="\r")
        assert await page.until(
            "document.querySelector('details.decision[open] tr.actual')?.innerText"
        )

        await page.look(390, 844)
        assert await page.js("document.documentElement.scrollWidth <= innerWidth"), (
            "it scrolls sideways"
        )
        refused = [p for p in page.problems if "401" not in p]
        assert refused == []  # nothing that the content security policy forbids, no exception


async def test_a_name_that_looks_like_markup_is_text():
    evil = "<img src=x onerror=\"document.title='owned'\">"
    async with serving(Upstream()) as url:
        place = Endpoint(f"{url}/v1", ModelMap({evil: "m"}))
        options = {"endpoints": {evil: place}, "tenants": {evil: Tenant()}}
        async with gateway(**options) as g, browsing() as page:
            for model in (evil, f"{evil}!"):  # one that is served, one that the caller made up
                with contextlib.suppress(openai.NotFoundError):
                    await g.sdk.chat.completions.create(
                        model=model, messages=[{"role": "user", "content": evil}]
                    )
            await page.go(f"{g.url}/dashboard")
            await page.until("document.querySelectorAll('details.decision').length === 2")
            await page.js("document.querySelectorAll('details').forEach(d => d.open = true)")
            for place_ in (".model h3", "tr.up", "details.decision", "#model option"):
                text = f"[...document.querySelectorAll('{place_}')].map(e => e.textContent).join()"
                assert evil in await page.js(text)
            assert await page.js("document.querySelectorAll('img[src=x]').length") == 0
            assert await page.js("document.title") == "Gateway"
            assert page.problems == []
            assert f"{evil}!" not in await page.js("document.body.textContent")


async def test_a_wrong_key_is_asked_for_again():
    async with gateway(Upstream(), keys=KEYS) as g, browsing() as page:
        await page.go(f"{g.url}/dashboard")
        await page.until("document.activeElement?.id === 'key'")
        await page.call("Input.insertText", text="not the key")
        await page.press("Enter", text="\r")
        assert await page.until("document.getElementById('refused').textContent")
        assert await page.js("document.getElementById('content').hidden")
        assert await page.js("sessionStorage.length") == 0
