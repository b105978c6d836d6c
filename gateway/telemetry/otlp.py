"""OTLP over HTTP: where spans go, in batches, on a thread of its own.

What is standard is read as everywhere: `OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, by the exporter;
`OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES`, by the resource; `OTEL_BSP_*` and
`OTEL_SDK_DISABLED`, here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from gateway.telemetry.batches import Batches
from gateway.telemetry.spans import Address, SpanFactory, nowhere
from gateway.version import installed_version

logger = logging.getLogger(__name__)


class Undelivered(Exception):
    """The collector did not take a batch."""


def exporter(endpoint: str | None) -> SpanExporter:
    """`endpoint` is a collector's base URL, as in OTEL_EXPORTER_OTLP_ENDPOINT; None: as there."""
    if endpoint is None:
        return OTLPSpanExporter()
    return OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")


def factory(service: str, *, content: bool = False, address: Address = nowhere) -> SpanFactory:
    version = installed_version()
    named = os.environ.get("OTEL_SERVICE_NAME")
    attributes = {} if named else {SERVICE_NAME: service}
    scope = InstrumentationScope("inference-layer", version)
    resource = Resource.create({**attributes, "service.version": version})
    return SpanFactory(resource, scope, content, address)


class SpanQueue:
    """Takes spans without waiting. A collector that is dead or slow costs spans, nothing else."""

    def __init__(self, exporter: SpanExporter, environ: Mapping[str, str] = os.environ) -> None:
        self._exporter = exporter
        self._batches: Batches[ReadableSpan] = Batches(
            "spans",
            self._export,
            capacity=_positive(environ, "OTEL_BSP_MAX_QUEUE_SIZE", 2048),
            batch=_positive(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
            period_s=_positive(environ, "OTEL_BSP_SCHEDULE_DELAY", 1000) / 1000,
        )

    def start(self) -> None:
        self._batches.start()

    @property
    def dropped(self) -> int:
        return self._batches.dropped

    @property
    def written(self) -> int:
        return self._batches.written

    def put(self, spans: list[ReadableSpan]) -> None:
        for span in spans:
            self._batches.put(span)

    def close(self, timeout_s: float = 5.0) -> None:
        self._batches.close(timeout_s)
        self._exporter.shutdown()

    def _export(self, spans: list[ReadableSpan]) -> None:
        if self._exporter.export(spans) is not SpanExportResult.SUCCESS:
            raise Undelivered("the collector did not take them")


def _positive(environ: Mapping[str, str], name: str, otherwise: int) -> int:
    """What a variable says wrongly is as if it said nothing, as the specification has it."""
    text = environ.get(name, "")
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    if text:
        logger.warning("%s is not a number from 1: %d is taken", name, otherwise)
    return otherwise
