"""What a collector gets: the whole tree of an exchange, whatever became of it."""

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import openai
import pytest

from gateway.config.bind import Seconds, Secret, Share
from gateway.config.tree import Tracing
from gateway.domain import Considered
from gateway.telemetry.facts import reason
from tests.support.collector import Span, collecting
from tests.support.gateways import Running, gateway
from tests.support.upstream import Upstream

pytestmark = pytest.mark.anyio

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def plain(g: Running) -> None:
    await g.sdk.chat.completions.create(**ASK)


async def stream(g: Running) -> None:
    async for _ in await g.sdk.chat.completions.create(**ASK, stream=True):
        pass


async def broken_stream(g: Running) -> None:
    with pytest.raises(openai.APIError):
        await stream(g)


async def hang_up(g: Running) -> None:
    answer = await g.sdk.chat.completions.create(**ASK, stream=True)
    await anext(aiter(answer))
    await answer.close()


async def refused(g: Running) -> None:
    with pytest.raises(openai.APIStatusError):
        await plain(g)


@dataclass(frozen=True)
class Case:
    """What was done, and what the trace is to say; attempts with their errors, in order."""

    upstreams: tuple[dict[str, object], ...]
    do: Callable[[Running], Awaitable[None]]
    attempts: tuple[tuple[str, str | None], ...]
    ended: str
    status: int | None
    error: str | None = None  # that makes the server's span an error
    endpoint: dict[str, object] = field(default_factory=dict)  # what all of them are
    computed: tuple[int, ...] = (3,)  # tokens of the attempt that ended it, whichever it was


CASES = {
    "plain": Case(({},), plain, (("u0", None),), "finished", 200),
    "stream": Case(({},), stream, (("u0", None),), "finished", 200),
    "fail-over": Case(
        ({"status": 500}, {}),
        plain,
        (("u0", "upstream_refused"), ("u1", None)),
        "finished",
        200,
    ),
    "resume": Case(
        ({"break_at": 2}, {}),
        stream,
        (("u0", "upstream_broken"), ("u1", None)),
        "finished",
        200,
        endpoint={"dialect": "replica", "secret": Secret("s3cret")},
        computed=(0, 1),  # the rest: what of the second piece came through is a matter of luck
    ),
    "hang-up": Case(({"hold_at": 2},), hang_up, (("u0", None),), "hung_up", 200),
    "broken stream": Case(
        ({"break_at": 2},),
        broken_stream,
        (("u0", "upstream_broken"),),
        "failed",
        200,
        "upstream_broken",
    ),
    "refusal": Case(
        ({"status": 500}, {"status": 429}),
        refused,
        (("u0", "upstream_refused"), ("u1", "rate_limit_exceeded")),
        "failed",
        429,
        "rate_limit_exceeded",
    ),
    "the caller's mistake": Case(
        ({"status": 400, "error": {"error": {"message": "no such thing"}}},),
        refused,
        (("u0", "invalid_request_error"),),
        "failed",
        400,
    ),
}


@pytest.mark.parametrize("name", CASES)
async def test_the_whole_tree_arrives(name: str) -> None:
    case = CASES[name]
    upstreams = [Upstream(**options) for options in case.upstreams]
    async with collecting() as (url, collector):
        tracing = Tracing(endpoint=url)
        async with gateway(*upstreams, tracing=tracing, endpoint=case.endpoint) as g:
            await case.do(g)
            await g.settled.wait_for(1)
        spans = await collector.wait_for(2 + len(case.attempts))

        (server,) = [s for s in spans if s.kind == "SERVER"]
        (route,) = [s for s in spans if s.name == "route"]
        attempts = [s for s in spans if s.kind == "CLIENT"]
        assert len(spans) == 2 + len(case.attempts)
        assert {s.trace_id for s in spans} == {server.trace_id}
        assert {s.parent_id for s in (route, *attempts)} == {server.span_id}
        assert len({s.span_id for s in spans}) == len(spans)
        check_server(server, case)
        check_route(route, len(upstreams))
        check_attempts(attempts, case)
        for span in (route, *attempts):
            assert server.start <= span.start <= span.end <= server.end
        await check_jaeger(url, server, len(spans))


def check_server(server: Span, case: Case) -> None:
    assert server.name == "POST /v1/chat/completions"
    assert server.parent_id == ""
    assert server.attributes["http.route"] == "/v1/chat/completions"
    assert server.attributes["gateway.ended"] == case.ended
    assert server.attributes["gateway.tenant"] == "default"
    assert server.attributes.get("http.response.status_code") == case.status
    assert server.attributes["gen_ai.request.temperature"] == 0.5
    assert server.error is (case.error is not None)
    if case.error is not None:
        assert server.attributes["error.type"] == case.error
    if case.ended == "finished":
        assert server.attributes["gen_ai.response.finish_reasons"] == ["stop"]
        assert server.attributes["gen_ai.usage.input_tokens"] == 11
        assert server.attributes["gen_ai.usage.output_tokens"] == 3
        assert server.attributes["gen_ai.usage.cache_read.input_tokens"] == 3


def check_route(route: Span, candidates: int) -> None:
    assert route.attributes["gateway.policy"] == "cache_aware"
    assert len(route.attributes["gateway.policy.version"]) == 12
    assert route.attributes["gateway.decision.winner"] == "u0"
    assert route.attributes["gateway.decision.reason"] == (
        "only_candidate" if candidates == 1 else "lowest_cost"
    )
    assert route.attributes["gateway.decision.candidates"] == candidates
    if candidates > 1:
        assert route.attributes["gateway.decision.runner_up"] == "u1"
        assert route.attributes["gateway.decision.margin"] >= 0
    assert [name for name, _ in route.events] == ["candidate"] * candidates
    first = route.events[0][1]
    assert first["gateway.candidate.endpoint"] == "u0"
    assert first["gateway.candidate.ttft_s"] > 0


def check_attempts(attempts: list[Span], case: Case) -> None:
    told = [(s.attributes["gateway.endpoint"], s.attributes.get("error.type")) for s in attempts]
    assert tuple(told) == case.attempts
    ports = [span.attributes["server.port"] for span in attempts]
    assert len(set(ports)) == len({name for name, _ in case.attempts})
    for index, span in enumerate(attempts):
        assert span.attributes["server.address"] == "127.0.0.1"
        assert span.name == "chat m"
        assert span.attributes["gen_ai.operation.name"] == "chat"
        assert span.attributes["gen_ai.request.model"] == "m"
        assert span.attributes.get("http.request.resend_count", 0) == index
        assert span.error is (case.attempts[index][1] is not None)
    told = [span.attributes.get("gen_ai.response.finish_reasons") for span in attempts]
    assert told == [None] * (len(attempts) - 1) + [["stop"] if case.ended == "finished" else None]
    if case.ended == "finished":
        assert attempts[-1].attributes["gen_ai.usage.output_tokens"] in case.computed
        assert attempts[-1].attributes.get("gateway.attempt.resumed", False) is (
            3 not in case.computed
        )
        assert attempts[-1].attributes["gateway.billed_by"] == "tariff"


async def check_jaeger(url: str, server: Span, count: int) -> None:
    async with httpx.AsyncClient() as client:
        services = (await client.get(f"{url}/api/v3/services")).json()
        answer = (await client.get(f"{url}/api/v3/traces/{server.trace_id}")).json()
    assert services == {"services": ["gateway"]}
    found = [
        span
        for resource in answer["result"]["resourceSpans"]
        for scope in resource["scopeSpans"]
        for span in scope["spans"]
    ]
    assert len(found) == count


async def test_the_wait_for_room_has_a_span_of_its_own():
    upstream = Upstream(hold_at=1)
    options = {"endpoint": {"max_in_flight": 1}}
    async with collecting() as (url, collector):
        async with gateway(upstream, tracing=Tracing(endpoint=url), **options) as g:
            first = await g.sdk.chat.completions.create(**ASK, stream=True)
            second = asyncio.create_task(plain(g))
            async with asyncio.timeout(30):
                while not g.gateway.dispatcher.queue:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            upstream.release.set()
            async for _ in first:
                pass
            await second
        spans = await collector.wait_for(7)
    (queue,) = [s for s in spans if s.name == "queue"]
    (server,) = [s for s in spans if s.span_id == queue.parent_id]
    (attempt,) = [s for s in spans if s.kind == "CLIENT" and s.trace_id == queue.trace_id]
    assert server.kind == "SERVER"
    assert queue.attributes["gateway.request_class"] == "standard"
    assert server.start <= queue.start < queue.end <= attempt.start


async def test_a_decision_says_who_was_dropped_and_by_what():
    async with collecting() as (url, collector):
        async with gateway(Upstream(), Upstream(), tracing=Tracing(endpoint=url)) as g:
            g.gateway.fleet.endpoints["u1"].drained = True
            await plain(g)
        spans = await collector.wait_for(3)
    (route,) = [s for s in spans if s.name == "route"]
    assert [
        (event["gateway.candidate.endpoint"], event.get("gateway.candidate.rejected_by"))
        for _, event in route.events
    ] == [("u0", None), ("u1", "healthy")]
    assert route.attributes["gateway.expected.ttft_s"] > 0
    assert route.attributes["gateway.actual.ttft_s"] > 0
    assert route.attributes["gateway.actual.cached_tokens"] == 3


async def test_who_was_passed_over_for_being_full_is_told_and_did_not_win():
    busy, idle = Upstream(hold_at=1), Upstream()
    options = {"endpoint": {"max_in_flight": 1}}
    async with collecting() as (url, collector):
        async with gateway(busy, idle, tracing=Tracing(endpoint=url), **options) as g:
            first = await g.sdk.chat.completions.create(**ASK, stream=True)
            told = await g.sdk.chat.completions.with_raw_response.create(
                **ASK, extra_headers={"x-gateway-explain": "1"}
            )
            busy.release.set()
            async for _ in first:
                pass
        spans = await collector.wait_for(6)
    assert told.headers["x-gateway-endpoint"] == "u1"
    decision = json.loads(told.headers["x-gateway-decision"])
    assert decision["chosen"] == "u1"
    (route,) = [s for s in spans if s.attributes.get("gateway.decision.winner") == "u1"]
    full = [e["gateway.candidate.endpoint"] for _, e in route.events if e["gateway.candidate.full"]]
    assert full == [c["endpoint"] for c in decision["considered"] if c.get("full")] == ["u0"]


def test_the_reason_is_room_where_what_stood_before_was_full():
    cheap, dear = Considered("a", None, cost=1.0), Considered("b", None, cost=2.0)
    assert reason((cheap, dear)) == "lowest_cost"
    assert reason((dataclasses.replace(cheap, full=True), dear)) == "had_room"
    # All of them: it waits for the first.
    both = [dataclasses.replace(c, full=True) for c in (cheap, dear)]
    assert reason(both) == "lowest_cost"


async def test_a_callers_trace_goes_on_and_reaches_an_endpoint_of_ours_but_no_other():
    ours, theirs = Upstream(), Upstream()
    for upstream, dedicated in ((ours, True), (theirs, False)):
        async with collecting() as (url, collector):
            options = {"tracing": Tracing(endpoint=url), "endpoint": {"dedicated": dedicated}}
            async with gateway(upstream, **options) as g:
                headers = {"traceparent": CALLER, "tracestate": "v=1"}
                await g.sdk.chat.completions.create(**ASK, extra_headers=headers)
            spans = await collector.wait_for(3)
        (server,) = [s for s in spans if s.kind == "SERVER"]
        assert server.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert server.parent_id == "00f067aa0ba902b7"
    told = ours.received[0].headers
    assert told["tracestate"] == "v=1"
    assert told["traceparent"][:36] == f"00-{server.trace_id}-"
    assert "traceparent" not in theirs.received[0].headers


async def test_the_endpoint_is_told_the_attempts_own_span():
    upstream = Upstream()
    async with collecting() as (url, collector):
        options = {"tracing": Tracing(endpoint=url), "endpoint": {"dedicated": True}}
        async with gateway(upstream, **options) as g:
            await plain(g)
        spans = await collector.wait_for(3)
    (attempt,) = [s for s in spans if s.kind == "CLIENT"]
    assert upstream.received[0].headers["traceparent"] == (
        f"00-{attempt.trace_id}-{attempt.span_id}-01"
    )


async def test_of_what_is_not_sampled_failures_and_slow_ones_are_kept():
    async def kept(do, slow: float, **options: object) -> int:
        async with collecting() as (url, collector):
            tracing = Tracing(endpoint=url, sample=Share(0), slow=Seconds(slow))
            async with gateway(Upstream(**options), Upstream(), tracing=tracing) as g:
                await do(g)
        return len(collector.spans())  # what is left is written before the end

    assert await kept(plain, 30) == 0
    assert await kept(plain, 30, status=500) == 4  # another made up for it
    assert await kept(broken_stream, 30, break_at=1) == 3
    assert await kept(plain, 1e-6) == 3
    assert await kept(hang_up, 30, hold_at=1) == 0


async def test_a_dead_collector_costs_spans_and_nothing_else(caplog):
    held = asyncio.Event()
    async with (
        collecting(held=held) as (url, _),
        gateway(Upstream(), tracing=Tracing(endpoint=url)) as g,
    ):
        for _ in range(20):
            await plain(g)
        assert g.gateway.seeing.tracing.queue.written == 0
        held.set()
    async with gateway(Upstream(), tracing=Tracing(endpoint="http://127.0.0.1:9")) as g:
        await plain(g)
        queue = g.gateway.seeing.tracing.queue
    assert queue.dropped == 3
    assert "127.0.0.1:9" not in caplog.text.replace("opentelemetry", "")


async def test_prompts_and_answers_are_there_only_if_the_operator_says_so():
    for content in (False, True):
        async with collecting() as (url, collector):
            async with gateway(Upstream(), tracing=Tracing(endpoint=url, content=content)) as g:
                await stream(g)
            spans = await collector.wait_for(3)
        (server,) = [s for s in spans if s.kind == "SERVER"]
        assert ("gen_ai.input.messages" in server.attributes) is content
        assert ("Hello there" in server.attributes.get("gen_ai.output.messages", "")) is content


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_a_chat_in_another_apis_shape_is_named_by_its_own_path(path: str) -> None:
    asked = {
        "/v1/messages": {
            "model": "m",
            "max_tokens": 9,
            "messages": [{"role": "user", "content": "hi"}],
        },
        "/v1/responses": {"model": "m", "input": "hi", "background": False},
    }
    async with collecting() as (url, collector):
        async with (
            gateway(Upstream(), tracing=Tracing(endpoint=url)) as g,
            httpx.AsyncClient(base_url=g.url) as client,
        ):
            assert (await client.post(path, json=asked[path])).status_code == 200
        spans = await collector.wait_for(3)
        (server,) = [s for s in spans if s.kind == "SERVER"]
        (attempt,) = [s for s in spans if s.kind == "CLIENT"]
    assert server.name == f"POST {path}"
    assert server.attributes["http.route"] == server.attributes["url.path"] == path
    assert attempt.name == "chat m"
