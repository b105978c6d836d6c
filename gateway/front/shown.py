"""JSON for a client that holds what clients and models wrote."""

from __future__ import annotations

from typing import Any

from starlette.responses import JSONResponse

from gateway.wire.openai import encode_json


class Shown(JSONResponse):
    """Starlette's own fails at half of a surrogate pair, which an escape may have brought in."""

    def render(self, content: Any) -> bytes:
        return encode_json(content)
