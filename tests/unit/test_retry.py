"""When to try again."""

import pytest

from synd.clock import Deadline
from synd.errors import Conflict, IntegrityError, NotLoggedIn, RemoteUnavailable
from synd.retry import RetryPolicy

POLICY = RetryPolicy(tries=4, base_s=1.0, cap_s=4.0)


class Stopped:
    """A clock that stands."""

    def now_ns(self) -> int:
        return 0

    def monotonic(self) -> float:
        return 0.0


def budget(seconds: float) -> Deadline:
    return Deadline.after(seconds, "the work", Stopped())


def test_wait_when_later_may_help_grows_up_to_the_cap():
    """Doubling from the base, jittered by half, never above 1½ caps."""
    for attempt, plain in ((1, 1.0), (2, 2.0), (3, 4.0)):
        wait = POLICY.wait_s(RemoteUnavailable("x"), attempt, budget(1000))

        assert wait is not None
        assert 0.5 * plain <= wait <= 1.5 * plain


def test_wait_when_tries_are_spent_gives_up():
    """The fourth failure of four is the last."""
    assert POLICY.wait_s(RemoteUnavailable("x"), 4, budget(1000)) is None


@pytest.mark.parametrize("error", [Conflict("x"), NotLoggedIn("x")], ids=["no", "after login"])
def test_wait_when_trying_again_cannot_help_gives_up(error):
    """Only the error's own word counts."""
    assert POLICY.wait_s(error, 1, budget(1000)) is None


def test_wait_when_once_may_help_tries_once():
    """A broken download is fetched once more, not again and again."""
    assert POLICY.wait_s(IntegrityError("x"), 1, budget(1000)) is not None
    assert POLICY.wait_s(IntegrityError("x"), 2, budget(1000)) is None


def test_wait_when_the_service_asks_for_longer_obeys():
    """Retry-After beats our own arithmetic."""
    assert POLICY.wait_s(RemoteUnavailable("x"), 1, budget(1000), asked_s=60.0) == 60.0


def test_wait_when_longer_than_the_budget_gives_up_at_once():
    """Waiting for a deadline to pass helps nobody."""
    assert POLICY.wait_s(RemoteUnavailable("x"), 1, budget(30), asked_s=60.0) is None
