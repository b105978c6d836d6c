"""Fields that would let a caller choose its tenant, its turn, its upstream or the template."""

import openai
import pytest

from gateway.config.bind import Secret
from gateway.config.tree import Key
from gateway.wire.fields import OWNED, Owned
from tests.support.gateways import gateway
from tests.support.upstream import Upstream

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
REPLICA = {"dialect": "replica", "secret": Secret("between-us")}

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("name", [name for name, how in OWNED.items() if how is Owned.REFUSED])
async def test_it_is_refused_by_name(name):
    upstream = Upstream()
    async with gateway(upstream) as g:
        with pytest.raises(openai.BadRequestError) as caught:
            await g.sdk.chat.completions.create(**ASK, extra_body={name: "x"})
    assert caught.value.param == name
    assert upstream.received == []


async def salts(upstream: Upstream, *asks: tuple[str, object]) -> list[str]:
    """The salts that go to a replica for requests of (key, the caller's own salt)."""
    keys = tuple(Key(name=k, tenant=k, key=Secret(f"sk-key-{k}")) for k in ("ann", "bob"))
    async with gateway(upstream, endpoint=REPLICA, keys=keys) as g:
        for key, salt in asks:
            body = {} if salt is None else {"cache_salt": salt}
            await g.sdk.with_options(api_key=f"sk-key-{key}").chat.completions.create(
                **ASK, extra_body=body
            )
    return [r.body["cache_salt"] for r in upstream.received]


async def test_cache_salt_is_the_tenants_and_a_callers_own_only_divides_it_further():
    ann, ann_again, ann_own, bob, bob_own = await salts(
        Upstream(), ("ann", None), ("ann", None), ("ann", "s"), ("bob", None), ("bob", "s")
    )
    assert ann == ann_again
    assert len({ann, ann_own, bob, bob_own}) == 4


async def test_nobody_reaches_another_tenants_salt_by_sending_it():
    upstream = Upstream()
    (ann,) = await salts(upstream, ("ann", None))
    assert ann not in await salts(Upstream(), ("bob", ann), ("ann", ann))


async def test_session_id_goes_to_a_replica_as_a_name_that_tells_nothing():
    upstream = Upstream()
    async with gateway(upstream, endpoint=REPLICA) as g:
        for session in ("conversation-1", "conversation-1", "conversation-2"):
            await g.sdk.chat.completions.create(**ASK, extra_body={"session_id": session})
    first, again, other = (r.body["session_id"] for r in upstream.received)
    assert first == again != other
    assert "conversation" not in str([r.body for r in upstream.received])


async def test_an_endpoint_that_is_no_replica_gets_none_of_them():
    upstream = Upstream()
    async with gateway(upstream) as g:
        await g.sdk.chat.completions.create(
            **ASK, extra_body={"cache_salt": "s", "session_id": "t"}
        )
    assert set(upstream.received[0].body) == {"model", "messages"}


async def test_the_secret_goes_to_replicas_only_and_their_report_stays_here():
    report = {"epoch": "e1", "running": 1, "queued_tokens": 0, "horizon_age_s": None}
    upstream = Upstream(report=report)
    async with gateway(upstream, endpoint=REPLICA) as g:
        raw = await g.sdk.chat.completions.with_raw_response.create(**ASK)
        (outcome,) = await g.settled.wait_for(1)
    assert upstream.received[0].headers["x-replica-secret"] == "between-us"
    assert b"epoch" not in raw.content
    assert outcome.report.epoch == "e1"
