"""Takes the pictures in docs/seeing.md: `python -m tests.dashboard.pictures [seconds]`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import httpx

from gateway.app import Gateway
from gateway.config.load import PACKAGED, load_policy
from gateway.config.tree import Config, Endpoint, ModelMap, ModelPrice
from gateway.rules import always
from routing_policies.catalog import Catalog
from tests.dashboard.test_browser import HAIKU, QUESTIONS
from tests.support.browser import browsing
from tests.support.serving import serving
from tests.support.upstream import Upstream

DOCS = Path(__file__).parents[2] / "docs"
MODEL = "llama-3.3-70b"


def upstreams() -> dict[str, tuple[Upstream, ModelPrice, bool]]:
    return {
        "gpu-pool": (
            Upstream(pieces=HAIKU * 3, gap_s=0.02, delay_s=0.06, cached_tokens=9),
            ModelPrice(input=0, output=0),
            True,
        ),
        "together": (
            Upstream(pieces=HAIKU * 3, gap_s=0.01, delay_s=0.18, cached_tokens=4),
            ModelPrice(input=0.88, cached=0.44, output=0.88),
            False,
        ),
        "fireworks": (
            Upstream(pieces=HAIKU * 3, gap_s=0.012, delay_s=0.15),
            ModelPrice(input=0.9, output=0.9),
            False,
        ),
    }


async def ask_on_and_on(url: str, draw: random.Random, client: httpx.AsyncClient) -> None:
    while True:
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": draw.choice(QUESTIONS)}],
            "stream": True,
        }
        with contextlib.suppress(httpx.HTTPError):
            await client.post(f"{url}/v1/chat/completions", json=body)
        await asyncio.sleep(draw.expovariate(1.2))


async def main(seconds: float) -> None:
    draw = random.Random(3)
    async with AsyncExitStack() as stack:
        endpoints, lives = {}, {}
        for name, (app, price, dedicated) in upstreams().items():
            lives[name] = await stack.enter_async_context(AsyncExitStack())
            url = await lives[name].enter_async_context(serving(app))
            names = ModelMap({MODEL: MODEL})
            endpoints[name] = Endpoint(
                f"{url}/v1",
                names,
                dedicated=dedicated,
                prices={MODEL: price},
                max_in_flight=3 if dedicated else None,  # more is for the others
            )
        policy = load_policy(PACKAGED / "balanced.yaml", Catalog.load())
        whole = Gateway(Config(endpoints=endpoints), always(policy))
        url = await stack.enter_async_context(serving(whole.asgi()))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=30))
        page = await stack.enter_async_context(browsing())
        asking = [asyncio.create_task(ask_on_and_on(url, draw, client)) for _ in range(10)]
        await page.look(1200, 900)
        await page.go(f"{url}/dashboard")
        await asyncio.sleep(seconds * 0.8)
        await lives["fireworks"].aclose()
        await asyncio.sleep(seconds * 0.2)
        await page.js("document.getElementById('ask').requestSubmit()")
        await asyncio.sleep(3)
        await page.js("document.querySelector('details.decision').open = true")
        pictures = {"dashboard.png": await page.picture(whole=True)}
        await page.look(1200, 760, dark=True)
        await asyncio.sleep(2.5)
        pictures["dashboard-dark.png"] = await page.picture()
        await page.look(390, 844)
        await page.js("scrollTo(0, 0)")
        await asyncio.sleep(2.5)
        pictures["dashboard-phone.png"] = await page.picture()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
    for name, picture in pictures.items():
        (DOCS / name).write_bytes(picture)


if __name__ == "__main__":
    asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))
