"""An OTLP/HTTP collector: real HTTP, real protobuf, read back in the shape of Jaeger's /api/v3."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from tests.support.serving import serving

KINDS = {2: "SERVER", 3: "CLIENT", 1: "INTERNAL"}


@dataclass
class Span:
    """One span, with its resource's name."""

    service: str
    trace_id: str
    span_id: str
    parent_id: str
    name: str
    kind: str
    error: bool
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[tuple[str, dict[str, Any]]]


@dataclass
class Collector:
    raw: list[ExportTraceServiceRequest] = field(default_factory=list)
    status: int = 200
    held: asyncio.Event | None = None  # answers nobody before it is set
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/traces", self.take, methods=["POST"]),
                Route("/api/v3/services", self.services),
                Route("/api/v3/traces/{trace_id}", self.trace),
            ]
        )

    async def take(self, request: Request) -> Response:
        body = await request.body()
        if request.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        if self.held is not None:
            await self.held.wait()
        if self.status == 200:
            self.raw.append(ExportTraceServiceRequest.FromString(body))
        self.came.set()
        answer = ExportTraceServiceResponse().SerializeToString()
        return Response(answer, self.status, media_type="application/x-protobuf")

    async def services(self, request: Request) -> Response:
        return JSONResponse({"services": sorted({span.service for span in self.spans()})})

    async def trace(self, request: Request) -> Response:
        wanted = bytes.fromhex(request.path_params["trace_id"])
        found = ExportTraceServiceRequest()
        for export in self.raw:
            for resource in export.resource_spans:
                for scope in resource.scope_spans:
                    spans = [span for span in scope.spans if span.trace_id == wanted]
                    if spans:
                        kept = found.resource_spans.add()
                        kept.resource.CopyFrom(resource.resource)
                        kept.scope_spans.add().spans.extend(spans)
        if not found.resource_spans:
            return JSONResponse({"error": {"httpCode": 404, "message": "trace not found"}}, 404)
        return JSONResponse({"result": MessageToDict(found)})

    def spans(self) -> list[Span]:
        return [
            Span(
                service=_values(resource.resource.attributes)["service.name"],
                trace_id=span.trace_id.hex(),
                span_id=span.span_id.hex(),
                parent_id=span.parent_span_id.hex(),
                name=span.name,
                kind=KINDS[span.kind],
                error=span.status.code == 2,
                start=span.start_time_unix_nano,
                end=span.end_time_unix_nano,
                attributes=_values(span.attributes),
                events=[(event.name, _values(event.attributes)) for event in span.events],
            )
            for export in self.raw
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def wait_for(self, count: int, seconds: float = 10) -> list[Span]:
        async with asyncio.timeout(seconds):
            while len(self.spans()) < count:
                self.came.clear()
                await self.came.wait()
        return self.spans()


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: _value(a.value) for a in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@asynccontextmanager
async def collecting(**options: Any) -> AsyncIterator[tuple[str, Collector]]:
    collector = Collector(**options)
    async with serving(collector.app()) as url:
        yield url, collector
