"""The one place that says what OpenTelemetry calls things: a dependency's update fails here."""

from opentelemetry.semconv._incubating.attributes import (
    error_attributes,
    gen_ai_attributes,
    http_attributes,
    server_attributes,
    url_attributes,
)
from opentelemetry.semconv._incubating.metrics import gen_ai_metrics

from gateway.domain import Operation
from gateway.telemetry import instruments, names
from gateway.telemetry.facts import OPERATIONS

ATTRIBUTES = (
    *(error_attributes, gen_ai_attributes, http_attributes),
    *(server_attributes, url_attributes),
)
PINNED = {
    "OPERATION": "gen_ai.operation.name",
    "PROVIDER": "gen_ai.provider.name",
    "REQUEST_MODEL": "gen_ai.request.model",
    "REQUEST_CHOICES": "gen_ai.request.choice.count",
    "REQUEST_MAX_TOKENS": "gen_ai.request.max_tokens",
    "REQUEST_TEMPERATURE": "gen_ai.request.temperature",
    "REQUEST_TOP_P": "gen_ai.request.top_p",
    "REQUEST_ENCODINGS": "gen_ai.request.encoding_formats",
    "REQUEST_DIMENSIONS": "gen_ai.embeddings.dimension.count",
    "REQUEST_SEED": "gen_ai.request.seed",
    "REQUEST_FREQUENCY_PENALTY": "gen_ai.request.frequency_penalty",
    "REQUEST_PRESENCE_PENALTY": "gen_ai.request.presence_penalty",
    "REQUEST_STREAM": "gen_ai.request.stream",
    "RESPONSE_FIRST_CHUNK": "gen_ai.response.time_to_first_chunk",
    "FINISH_REASONS": "gen_ai.response.finish_reasons",
    "INPUT_TOKENS": "gen_ai.usage.input_tokens",
    "OUTPUT_TOKENS": "gen_ai.usage.output_tokens",
    "CACHED_TOKENS": "gen_ai.usage.cache_read.input_tokens",
    "INPUT_MESSAGES": "gen_ai.input.messages",
    "OUTPUT_MESSAGES": "gen_ai.output.messages",
    "METHOD": "http.request.method",
    "ROUTE": "http.route",
    "STATUS": "http.response.status_code",
    "RESENDS": "http.request.resend_count",
    "ERROR": "error.type",
    "SERVER_ADDRESS": "server.address",
    "SERVER_PORT": "server.port",
    "URL_SCHEME": "url.scheme",
    "URL_PATH": "url.path",
}
OURS = ("gateway.", "replica.")


def test_the_names_are_those_of_the_conventions() -> None:
    known = {
        value for module in ATTRIBUTES for value in vars(module).values() if isinstance(value, str)
    }
    ours = {k: v for k, v in vars(names).items() if k.isupper() and not v.startswith(OURS)}
    assert ours == PINNED
    assert set(ours.values()) - known == set()


def test_the_metrics_are_those_of_the_conventions_as_prometheus_writes_them() -> None:
    theirs = {v for v in vars(gen_ai_metrics).values() if isinstance(v, str)}
    for metric in instruments.HISTOGRAMS:
        if metric.name.startswith("gen_ai_"):
            plain = metric.name.removesuffix("_seconds")
            assert plain in {name.replace(".", "_") for name in theirs}
    assert instruments.FIRST_TOKEN.buckets[-1] == 60


def test_every_operation_has_a_word_of_the_conventions() -> None:
    assert OPERATIONS.keys() == set(Operation)
    words = {word.value for word in gen_ai_attributes.GenAiOperationNameValues}
    assert set(OPERATIONS.values()) <= words
