"""The page that says what a client sees of each fault."""

from __future__ import annotations

import pytest

from tests.emulator.fault_matrix import PAGE, page

pytestmark = pytest.mark.anyio


async def test_the_page_says_what_happens() -> None:
    assert PAGE.read_text(encoding="utf-8") == await page()
