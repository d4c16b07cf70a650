"""Which failures are tried again, how often, when, and with what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd import errors
from synd.jobs.failures import Again, Failure, failure_of, parse
from synd.jobs.retries import (
    JITTER,
    LEAST_MEMORY_BYTES,
    WAITS_S,
    arguments_after,
    capped,
    goes_on,
    wait_s,
)


@given(
    st.sampled_from(Failure),
    st.integers(1, 20),
    st.integers(1, 20),
    st.sets(st.sampled_from(Failure)),
)
def test_retry_never_goes_beyond_what_is_allowed(failure, attempt, attempts, earlier):
    """Neither beyond the number of attempts, nor beyond what the class means."""
    again = failure.meaning.again
    if goes_on(failure, attempt, attempts, earlier):
        assert attempt < attempts
        assert again is Again.YES or (again is Again.ONCE and failure not in earlier)
    elif attempt < attempts:
        assert again is not Again.YES


@given(st.integers(1, 1000))
def test_wait_is_one_of_the_waits_jittered(attempt):
    """Within its bounds, and for ever the last one."""
    base = WAITS_S[min(attempt, 3) - 1]
    low, high = JITTER

    assert base * low == wait_s(attempt, lambda low, high: low)
    assert base * high == wait_s(attempt, lambda low, high: high)


@pytest.mark.parametrize("failure", [f for f in Failure if f is not Failure.OUT_OF_MEMORY])
def test_arguments_after_any_other_failure_are_the_same(failure):
    """Only memory asks for less."""
    arguments = {"caps": {"sort_memory_bytes": 1 << 30, "tool_threads": 4}}

    assert arguments == arguments_after(failure, arguments)


@given(
    st.dictionaries(
        st.sampled_from(["sort_memory_bytes", "samtools_memory_bytes", "bgzf_level"]),
        st.integers(1, 1 << 40),
    )
)
def test_arguments_after_too_little_memory_ask_for_half_and_no_less_than_can_be(caps):
    """Each time anew; numbers that are no bytes stay."""
    before = {"caps": caps, "source": "s"}
    once = arguments_after(Failure.OUT_OF_MEMORY, before)["caps"]
    twice = arguments_after(Failure.OUT_OF_MEMORY, {"caps": once})["caps"]

    assert (0.5, 0.25, 1) == (once["share"], twice["share"], once["tool_threads"])
    for name, value in caps.items():
        halved = max(LEAST_MEMORY_BYTES, value // 2) if name.endswith("_memory_bytes") else value
        assert halved == once[name]
    assert {"caps": caps, "source": "s"} == before


def test_caps_of_an_attempt_are_the_configured_ones_lowered_by_its_arguments():
    """What is told counts; of the rest the share that is left, and what has no share as it is."""
    configured = {
        "sort_memory_bytes": 100 << 20,
        "samtools_memory_bytes": 8 << 20,
        "bgzf_level": 1,
        "tool_threads": 4,
    }
    once = arguments_after(Failure.OUT_OF_MEMORY, {"caps": {"samtools_memory_bytes": 6 << 20}})

    assert configured == capped(configured, {})
    assert {
        "sort_memory_bytes": 50 << 20, "samtools_memory_bytes": 3 << 20, "bgzf_level": 1, "tool_threads": 1,
    } == capped(configured, once)  # fmt: skip
    assert LEAST_MEMORY_BYTES == capped({"sort_memory_bytes": 1}, once)["sort_memory_bytes"]


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (errors.StageFailed("x", failure="INVALID_RECORD"), Failure.INVALID_RECORD),
        (errors.StageFailed("x", failure="OF_A_NEWER_WORKER"), Failure.INTERNAL),
        (errors.Offline("x"), Failure.SOURCE_UNAVAILABLE),
        (errors.RateLimited("x"), Failure.SOURCE_UNAVAILABLE),
        (errors.Forbidden("x"), Failure.SOURCE_FORBIDDEN),
        (errors.NotLoggedIn("x"), Failure.SOURCE_FORBIDDEN),
        (errors.NotFound("x"), Failure.SOURCE_GONE),
        (errors.IntegrityError("x"), Failure.SOURCE_CHANGED),
        (errors.ToolMissing("x"), Failure.TOOL_MISSING),
        (errors.CacheFull("x"), Failure.NO_SPACE),
        (errors.DeadlineExceeded("x"), Failure.TIMEOUT),
        (errors.LeaseLost("x"), Failure.LEASE_LOST),
        (errors.Cancelled("x"), Failure.CANCELLED),
        (MemoryError(), Failure.OUT_OF_MEMORY),
        (KeyError("x"), Failure.INTERNAL),
    ],
    ids=lambda v: type(v).__name__,
)
def test_class_of_what_a_handler_raises_is_as_the_table_says(error, failure):
    """What nobody foresaw is a bug of ours."""
    assert failure is failure_of(error)


@pytest.mark.parametrize("failure", Failure)
def test_every_class_means_something_and_has_its_own_name(failure):
    """The name is what the database holds."""
    assert failure is parse(failure.value)
    assert failure.meaning.text
    assert failure.meaning.again is Again.NEVER or not failure.meaning.of_content
