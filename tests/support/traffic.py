"""Where requests go, counted."""

from __future__ import annotations

from collections import Counter
from itertools import count

from tests.support.gateways import Running

_numbers = count()


async def ask(g: Running) -> str:
    """A prompt that nobody has seen, streamed; returns who answered."""
    raw = await g.sdk.chat.completions.with_raw_response.create(
        model="m",
        messages=[{"role": "user", "content": f"{next(_numbers)} is the question"}],
        stream=True,
        max_tokens=3,
    )
    async for _ in raw.parse():
        pass
    return raw.headers["x-gateway-endpoint"]


async def asks(g: Running, number: int) -> Counter[str]:
    return Counter([await ask(g) for _ in range(number)])


async def ask_until_most_go_to(names: set[str], g: Running, within: int = 60) -> None:
    """One after the other, until 8 of the last 10 went there."""
    went: list[str] = []
    while sum(name in names for name in went[-10:]) < 8:
        assert len(went) < within, f"they went to {Counter(went)}"
        went.append(await ask(g))
