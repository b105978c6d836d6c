"""Who owes what: usage is what the client has, billed what each attempt cost us."""

import pytest

from gateway.domain import Attempt, BilledBy, Ended, Outcome, Principal, Usage
from gateway.errors import Fault
from gateway.ledger.record import Record
from tests.support.requests import chat


def settled(ended: Ended, *attempts: Attempt, **known: object) -> Record:
    outcome = Outcome("r-1", Principal("acme", "web"), started=10.0, finished=12.5)
    outcome.ended, outcome.attempts, outcome.request = ended, list(attempts), chat()
    outcome.model = "m"
    for name, value in known.items():
        setattr(outcome, name, value)
    return Record.of(outcome, at=1000.0)


REFUSED = Attempt("a", 10.0, error="upstream_busy", failed=True)
BROKEN = Attempt(
    "a",
    10.0,
    first_event=10.5,
    error="upstream_broken",
    failed=True,
    billed_usd=0.25,
    billed_by=BilledBy.ESTIMATE,
)


def answered(by: BilledBy = BilledBy.TARIFF) -> Attempt:
    attempt = Attempt("b", 10.5, first_event=11.0, last_event=12.0, billed_usd=1.0, billed_by=by)
    attempt.billed = None if by is BilledBy.ESTIMATE else Usage(100, 20, 64)
    return attempt


def test_an_answer_is_charged_as_it_was_billed():
    record = settled(Ended.FINISHED, answered(), usage=Usage(100, 20, 64))
    assert (record.charged_usd, record.cost_usd, record.fault) == (1.0, 1.0, None)
    assert (record.prompt_tokens, record.cached_tokens, record.completion_tokens) == (100, 64, 20)
    assert record.first_event_s == 1.0
    (billed,) = record.attempts
    assert (billed.began_s, billed.first_event_s, billed.total_s) == (0.5, 0.5, 1.5)
    assert (billed.prompt_tokens, billed.billed_by) == (100, "tariff")


def test_an_attempt_that_another_made_up_for_is_ours_to_pay():
    record = settled(Ended.FINISHED, BROKEN, answered(), usage=Usage(100, 20))
    assert (record.charged_usd, record.cost_usd) == (1.0, 1.25)
    assert record.attempts[0].billed_by == "estimate"
    assert record.attempts[0].prompt_tokens is None  # nobody told it


@pytest.mark.parametrize(
    ("attempts", "blamed", "fault"),
    [
        ((BROKEN,), Fault.PROVIDER, "provider"),
        ((REFUSED,), Fault.OURS, "provider"),  # it used up the exchange's time
        ((), Fault.PROVIDER, "provider"),  # it rests
        ((), Fault.OURS, "ours"),
        ((), Fault.CALLER, "caller"),
    ],
)
def test_a_failure_costs_the_tenant_nothing_and_says_whose_it_was(attempts, blamed, fault):
    record = settled(Ended.FAILED, *attempts, blamed=blamed, error="some_code")
    assert record.charged_usd == 0
    assert record.cost_usd == sum(a.billed_usd for a in attempts)
    assert record.fault == fault


def test_who_hangs_up_pays_for_what_was_done():
    record = settled(Ended.HUNG_UP, answered(BilledBy.ESTIMATE), events=7)
    assert record.charged_usd == 1.0
    assert record.fault is None
    assert (record.completion_tokens, record.estimated) == (7, True)


def test_a_model_that_nobody_serves_is_the_callers_text_and_not_kept():
    assert settled(Ended.FAILED, status=404, model="my password").model == "-"


def test_of_two_at_once_the_one_that_was_overtaken_is_ours_to_pay():
    slow = Attempt("b", 10.4, hedge=True, ended=Ended.OVERTAKEN)
    slow.first_event, slow.billed_usd, slow.billed_by = 10.9, 0.5, BilledBy.ESTIMATE
    record = settled(Ended.FINISHED, slow, answered(), usage=Usage(100, 20))
    assert (record.endpoint, record.charged_usd, record.cost_usd) == ("b", 1.0, 1.5)
    assert [attempt.hedge for attempt in record.attempts] == [True, False]


def test_an_answer_that_was_taken_up_shows_what_each_attempt_computed():
    begun = Attempt("a", 10.0, first_event=10.2, error="upstream_broken", failed=True)
    begun.billed, begun.billed_usd, begun.billed_by = Usage(100, 8), 0.1, BilledBy.TARIFF
    rest = answered()
    rest.resumed, rest.billed = True, Usage(108, 12)
    record = settled(Ended.FINISHED, begun, rest, usage=Usage(100, 20))
    assert (record.prompt_tokens, record.completion_tokens) == (100, 20)
    assert [(a.completion_tokens, a.resumed) for a in record.attempts] == [(8, False), (12, True)]
    assert record.first_event_s == pytest.approx(0.2)  # it had begun before it broke off
