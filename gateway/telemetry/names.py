"""Every name that a span's attribute has here.

`gen_ai.*`, `http.*`, `server.*`, `error.*` and `url.*` are OpenTelemetry's semantic conventions
v1.41.1 (the last tagged set with `gen_ai`, all of it in development); a test pins them, so that a
dependency's update fails there and not in users' dashboards. `gateway.*` and `replica.*` are ours.
"""

from __future__ import annotations

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
REQUEST_CHOICES = "gen_ai.request.choice.count"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
REQUEST_TEMPERATURE = "gen_ai.request.temperature"
REQUEST_TOP_P = "gen_ai.request.top_p"
REQUEST_ENCODINGS = "gen_ai.request.encoding_formats"
REQUEST_DIMENSIONS = "gen_ai.embeddings.dimension.count"
REQUEST_SEED = "gen_ai.request.seed"
REQUEST_FREQUENCY_PENALTY = "gen_ai.request.frequency_penalty"
REQUEST_PRESENCE_PENALTY = "gen_ai.request.presence_penalty"
RESPONSE_FIRST_CHUNK = "gen_ai.response.time_to_first_chunk"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"
INPUT_MESSAGES = "gen_ai.input.messages"  # opt-in
OUTPUT_MESSAGES = "gen_ai.output.messages"  # opt-in
REQUEST_STREAM = "gen_ai.request.stream"

METHOD = "http.request.method"
ROUTE = "http.route"
STATUS = "http.response.status_code"
RESENDS = "http.request.resend_count"
ERROR = "error.type"
SERVER_ADDRESS = "server.address"
SERVER_PORT = "server.port"
URL_SCHEME = "url.scheme"
URL_PATH = "url.path"

REQUEST_ID = "gateway.request_id"
TENANT = "gateway.tenant"
ENDED = "gateway.ended"
CACHE = "gateway.cache"  # hit, miss: of answers given again
REQUEST_CLASS = "gateway.request_class"
POLICY = "gateway.policy"
POLICY_VERSION = "gateway.policy.version"
REASON = "gateway.decision.reason"
WINNER = "gateway.decision.winner"
RUNNER_UP = "gateway.decision.runner_up"
MARGIN = "gateway.decision.margin"
CANDIDATES = "gateway.decision.candidates"
ENDPOINT = "gateway.endpoint"
CANDIDATE = "gateway.candidate"  # and below it every number of `Considered`
REJECTED_BY = "gateway.candidate.rejected_by"
COST_USD = "gateway.cost_usd"
HEDGE = "gateway.attempt.hedge"
RESUMED = "gateway.attempt.resumed"
PROBE = "gateway.attempt.probe"
OVERTAKEN = "gateway.attempt.overtaken"
UNAVAILABLE = "gateway.candidate.unavailable"
BILLED_BY = "gateway.billed_by"
EXPECTED = "gateway.expected"
ACTUAL = "gateway.actual"

QUEUED_S = "replica.queued_s"
FINISH = "replica.finish"
