"""Which requests a fault hits, and when a user is throttled."""

import pytest

from synd.errors import UsageError
from synd.registry.faults import Action, FaultBook, RequestLog, Throttle


class TestFaultBook:
    def test_hit_takes_the_nth_matching_request_and_so_many_after(self):
        """`nth` counts matching requests from 1, `times` how many are hit from there."""
        book = FaultBook()
        book.add({"method": "GET", "path": "^/blob/", "action": "expire", "nth": 2, "times": 2})

        hits = [bool(book.hit("GET", f"/blob/{n}")) for n in range(5)]

        assert [False, True, True, False, False] == hits
        assert [] == book.hit("PUT", "/blob/1")
        assert [] == book.hit("GET", "/other/blob/")

    def test_hit_with_times_zero_never_ends(self):
        """`times` 0 is "from then on"."""
        book = FaultBook()
        book.add({"action": "status", "times": 0})

        assert all(book.hit("POST", "/x") for _ in range(20))

    def test_rules_are_told_with_their_counts(self):
        """A test can see whether its fault was met."""
        book = FaultBook()
        book.add({"action": "delay", "seconds": 0.5, "nth": 2})
        book.hit("GET", "/a")
        book.hit("GET", "/b")

        (told,) = book.describe()

        assert (2, 1) == (told["seen"], told["hits"])

    def test_clear_disarms(self):
        """Without rules, requests pay nothing."""
        book = FaultBook()
        book.add({"action": "drop-before"})
        assert book.armed

        book.clear()

        assert not book.armed
        assert [] == book.hit("GET", "/a")

    @pytest.mark.parametrize(
        "rule",
        [
            {},
            {"action": "explode"},
            {"action": "status", "status": 42},
            {"action": "status", "nth": 0},
            {"action": "status", "path": "("},
            {"action": "status", "when": "now"},
        ],
        ids=["no action", "unknown", "status", "nth", "pattern", "field"],
    )
    def test_add_refuses_what_is_no_rule(self, rule):
        """A mistyped rule must not pass as one that never hits."""
        with pytest.raises(UsageError):
            FaultBook().add(rule)

    def test_every_action_can_be_asked_for(self):
        """All actions are reachable by their names."""
        book = FaultBook()
        for action in Action:
            book.add({"action": action.value})

        assert len(book.describe()) == len(Action)


class TestThrottle:
    def test_fourth_request_at_once_is_refused_until_one_ends(self):
        """Three at once per user; another user is not concerned."""
        throttle = Throttle()

        assert [None] * 3 == [throttle.enter(1, 0.0) for _ in range(3)]
        assert throttle.enter(1, 0.0) is not None
        assert throttle.enter(2, 0.0) is None
        throttle.leave(1)
        assert throttle.enter(1, 0.0) is None

    def test_601st_request_in_a_minute_is_refused(self):
        """600 in any 60 seconds."""
        throttle = Throttle()
        for n in range(600):
            assert throttle.enter(1, n / 100) is None
            throttle.leave(1)

        assert throttle.enter(1, 59.9) is not None
        assert throttle.enter(1, 60.0) is None


class TestRequestLog:
    def test_report_counts_by_route_and_status(self):
        """Counters tell sides, methods, routes and statuses apart."""
        log = RequestLog()
        log.add("rest", "GET", "/a/{id}", "/a/1", 200)
        log.add("rest", "GET", "/a/{id}", "/a/2", 200)
        log.add("blob", "GET", "/blob", "/blob/x", 206)

        report = log.report(10)

        assert (3, 2, 1) == (report["total"], report["rest"], report["blob"])
        assert {"side": "rest", "method": "GET", "route": "/a/{id}", "status": 200, "count": 2} in (
            report["counters"]
        )
        log.reset()
        assert log.report(10)["total"] == 0
