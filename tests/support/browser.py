"""Headless Chromium over its DevTools protocol: a page that is really laid out and clicked."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection, connect

CHROMIUM = ("chromium", "chromium-browser", "google-chrome")


@dataclass
class Page:
    socket: ClientConnection
    problems: list[str] = field(
        default_factory=list
    )  # exceptions, and what the console complains of
    _number: int = 0
    _answers: dict[int, asyncio.Future[Any]] = field(default_factory=dict)

    async def listen(self) -> None:
        async for message in self.socket:
            told = json.loads(message)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                self.problems.append(told["params"]["exceptionDetails"]["exception"]["description"])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                entry = told["params"]["entry"]
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")

    async def call(self, method: str, **params: Any) -> Any:
        self._number += 1
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        await self.socket.send(json.dumps({"id": self._number, "method": method, "params": params}))
        told = await asyncio.wait_for(answer, 30)
        assert "error" not in told, told
        return told["result"]

    async def go(self, url: str) -> None:
        await self.call("Page.navigate", url=url)

    async def js(self, expression: str) -> Any:
        """The value of an expression in the page; a promise's, once it is kept."""
        told = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, seconds: float = 20) -> Any:
        """Its value as soon as it is true."""
        async with asyncio.timeout(seconds):
            while not (value := await self.js(expression)):  # noqa: ASYNC110 - it is elsewhere
                await asyncio.sleep(0.05)
        return value

    async def look(self, width: int, height: int, *, dark: bool = False, scale: int = 1) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def press(self, key: str, **more: Any) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, **more)

    async def picture(self, *, whole: bool = False) -> bytes:
        """As PNG: what is seen, or the whole page."""
        told = await self.call(
            "Page.captureScreenshot",
            format="png",
            captureBeyondViewport=whole,
            **({"clip": await self._whole()} if whole else {}),
        )
        return base64.b64decode(told["data"])

    async def _whole(self) -> dict[str, float]:
        size = (await self.call("Page.getLayoutMetrics"))["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


@asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    assert program, f"needs one of {', '.join(CHROMIUM)} (Debian: apt-get install chromium)"
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = await asyncio.create_subprocess_exec(
            program,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--remote-debugging-port=0", f"--user-data-dir={profile}", "--hide-scrollbars"),
            *("--no-first-run", "--disable-background-networking", "about:blank"),
            stderr=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
        )
        assert process.stderr is not None
        try:
            async with asyncio.timeout(60):
                while True:
                    line = (await process.stderr.readline()).decode()
                    assert line, "Chromium ended before it listened"
                    if found := re.search(r"DevTools listening on ws://(\S+?)/", line):
                        break
            draining = asyncio.create_task(_drain(process.stderr))
            async with httpx.AsyncClient() as client:
                told = await client.put(f"http://{found[1]}/json/new?about:blank")
            async with connect(
                told.json()["webSocketDebuggerUrl"], max_size=None, ping_interval=None
            ) as socket:
                page = Page(socket)
                listening = asyncio.create_task(page.listen())
                for domain in ("Page", "Runtime", "Log"):
                    await page.call(f"{domain}.enable")
                yield page
                listening.cancel()
            draining.cancel()
        finally:
            process.kill()
            await process.wait()


async def _drain(stream: asyncio.StreamReader) -> None:
    while await stream.read(65536):
        pass
