"""Who is admitted, who is turned away, and what they are told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from launcher.errors import Overloaded
from launcher.scheduling.admission import CAUTION, Admission
from launcher.scheduling.queue import Job
from launcher.scheduling.speed import EngineSpeed

MAX_BATCH_TOKENS = 100


def job(*lengths: int) -> Job:
    return Job([np.zeros(length, np.int32) for length in lengths])


def bulk(tokens: int) -> Job:
    """Inputs of 10 tokens."""
    return job(*[10] * (tokens // 10))


def admission_with(max_tokens: int = 10**9, max_wait_s: float = 10.0, speed: int | None = 100, now: float = 0.0) -> Admission:
    admission = Admission(max_tokens, max_wait_s=max_wait_s, max_batch_tokens=MAX_BATCH_TOKENS, clock=lambda: now)
    if speed:
        admission.observe(int(speed / CAUTION), 1.0, 1.0)
    return admission


def refusal(admission: Admission, refused: Job, deadline: float = math.inf) -> Overloaded:
    before = admission.tokens_in_flight
    with pytest.raises(Overloaded) as raised:
        admission.admit(refused, deadline)
    assert admission.tokens_in_flight == before
    return raised.value


async def test_whatever_comes_while_nothing_is_in_flight_is_admitted():
    admission = admission_with(max_tokens=10)
    large = bulk(100_000)
    admission.admit(large, deadline=1.0)
    assert admission.tokens_in_flight == 100_000
    refusal(admission, job(1))
    admission.release(large)
    assert admission.tokens_in_flight == 0
    admission.admit(job(1))


async def test_beyond_the_limit_in_tokens_retry_after_is_the_time_the_excess_needs():
    admission = admission_with(max_tokens=1000)
    admission.admit(bulk(900))
    refused = refusal(admission, bulk(600))
    assert refused.retry_after_s == 500 / 100
    assert "the queue is full; try again in 5 s" in str(refused)


async def test_retry_after_is_no_longer_than_what_is_in_flight_takes():
    admission = admission_with(max_tokens=1000)
    admission.admit(job(100))
    assert refusal(admission, bulk(5000)).retry_after_s == 1


async def test_before_a_speed_is_known_only_the_tokens_count():
    admission = admission_with(max_tokens=1000, speed=None)
    admission.admit(job(50))
    admission.admit(bulk(900), deadline=0.001)
    assert refusal(admission, bulk(600)).retry_after_s == 1


async def test_a_query_waits_for_the_queries_before_it():
    admission = admission_with()
    admitted = 0
    # At 100 tokens a second 9 s of them, and 1 s for the batch that the last one admitted is part of.
    while admission.tokens_in_flight <= 900:
        admission.admit(job(50))
        admitted += 1
    assert admitted == 19
    assert refusal(admission, job(1)).retry_after_s == 1
    for _ in range(100 // 50):
        admission.release(job(50))
    admission.admit(job(50))


async def test_retry_after_is_when_there_will_be_room():
    assert refusal(admission_holding(bulk(4000)), bulk(200)).retry_after_s == 40 - 10
    assert refusal(admission_holding(bulk(1_000_000)), bulk(200)).retry_after_s == 60


def admission_holding(held: Job) -> Admission:
    admission = admission_with()
    admission.admit(held)
    return admission


async def test_an_ingest_does_not_keep_queries_out():
    admission = admission_with(max_wait_s=3.0)
    admission.admit(bulk(1_000_000))
    admission.admit(job(30))
    # Before it 0.3 s of queries, and the ingest's batch under way; then its own batch of as long as those queries.
    admission.admit(job(100))
    # 1.3 s of queries and two batches of the ingest, which waits for 1 s at most.
    assert "the queue is full" in str(refusal(admission, job(1)))


async def test_an_ingest_waits_for_everything():
    admission = admission_with(max_wait_s=3.0)
    admission.admit(job(100))
    admission.admit(bulk(200))
    admission.admit(bulk(10_000))
    refusal(admission, bulk(200))


async def test_what_an_ingest_has_had_computed_is_not_waited_for():
    admission = admission_with(max_wait_s=3.0)
    ingest = bulk(500)
    admission.admit(ingest)
    assert refusal(admission, bulk(200)).retry_after_s == 2
    ingest.accept(0, np.zeros((30, 4), np.float32), 0.0, 3.0)
    assert ingest.tokens_left == 200
    admission.admit(bulk(200))


async def test_what_could_not_be_finished_by_its_deadline_is_refused():
    admission = admission_with(now=1000.0)
    admission.admit(job(100))
    admission.admit(job(100))
    admission.admit(job(100), deadline=1003.0)
    # 3 s before it and 1 s of its own.
    refused = refusal(admission, job(100), deadline=1003.9)
    assert "would not be finished before its deadline; try again in 1 s" in str(refused)
    admission.admit(job(100), deadline=1004.1)


async def test_what_takes_longer_than_its_deadline_by_itself_must_only_begin_in_time():
    admission = admission_with()
    admission.admit(job(100))
    admission.admit(bulk(10_000), deadline=5.0)
    assert refusal(admission_holding(bulk(600)), bulk(10_000), deadline=5.0).retry_after_s == 1


async def test_full_is_where_a_single_token_would_be_refused():
    admission = admission_with()
    assert admission.full() is None
    for _ in range(9):
        admission.admit(job(100))
    assert admission.full() is None
    admission.admit(job(1))
    refused = admission.full()
    assert refused
    assert refused.retry_after_s == 1


def speed_after(*batches: tuple[int, float]) -> float | None:
    speed = EngineSpeed(max_batch_tokens=2000)
    for tokens, seconds in batches:
        speed.observe(tokens, seconds, seconds)
    return speed.tokens_per_s


def test_speed_is_of_tokens_over_time_and_not_of_ratios():
    # The mean of the ratios would be 1,300.
    assert speed_after((1000, 2.0), (1050, 0.5)) == pytest.approx(2050 / 2.5, rel=0.2)


def test_small_batches_do_not_lower_the_speed():
    full = [(2000, 0.1)] * 10
    assert speed_after(*full, *[(20, 0.005)] * 10_000, (2000, 0.1)) == pytest.approx(20_000)


def test_small_batches_alone_say_nothing():
    """As a server's first request, before a burst."""
    assert speed_after(*[(20, 0.005)] * 10_000) is None
    assert speed_after(*[(20, 0.005)] * 10_000, (1000, 0.1)) == pytest.approx(10_000)


def test_a_stall_is_forgotten_even_if_only_small_batches_follow():
    """A low speed makes batches small, and small batches must be able to raise it again."""
    stalled = [(2000, 0.1)] * 50 + [(2000, 60.0)]
    assert speed_after(*stalled) < 40
    assert speed_after(*stalled, *[(300, 0.02)] * 1000) > 10_000


def test_an_engine_that_became_slower_is_noticed_within_seconds():
    assert speed_after(*[(2000, 0.1)] * 100, *[(2000, 0.4)] * 25) == pytest.approx(5000, rel=0.5)


def test_batches_that_overlap_count_for_the_time_they_add():
    speed = EngineSpeed(max_batch_tokens=2000)
    for _ in range(100):
        speed.observe(2000, seconds=0.2, busy_s=0.1)
    assert speed.tokens_per_s == pytest.approx(20_000)
