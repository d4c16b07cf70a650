"""The conversation as a machine: recorded transcripts with a clock that is moved, and single rules."""

import json
import logging

import pytest

from synd.errors import ProtocolError
from synd.grid.events import (
    Acknowledged,
    Closed,
    Connect,
    Done,
    Fetch,
    Fetched,
    FetchFailed,
    FetchProgress,
    NotOpened,
    Opened,
    Received,
    Send,
    Synced,
    Tick,
    UrlFailed,
    UrlGot,
)
from synd.grid.limits import GridLimits, GridTimeouts
from synd.grid.outcome import Kind, Outcome, Phase, Reason, without_queries
from synd.grid.session import Conversation
from tests.support.grid_transcripts import NAMES, Play, StillClock, judge, load

URL = "https://storage.example/grid.cbor?X-Amz-Signature=secret"


@pytest.mark.req("S0-30", "S0-31", "S0-32", "S0-46", "S0-50")
@pytest.mark.parametrize("name", NAMES)
def test_conversation_when_replayed_then_ends_as_recorded(name):
    """Every recorded conversation ends with the outcome, phase, message and document that belong to it."""
    play = Play(name)

    outcome = play.run()

    judge(name, outcome, play.conversation.document)
    assert play.took_s <= load(name)["expected"].get("at_most_s", play.budget_s)
    if load(name)["expected"].get("acknowledged"):
        assert len(play.stored) == 1
        assert play.conversation.unstored == 0


class CountingDocument:
    """A document that knows patches by their header only."""

    def __init__(self, time=0):
        self.clock = {65_535: time} if time else {}
        self.patches = []

    def apply_patches(self, patches):
        for patch in patches:
            if patch[1:] == ["broken"]:
                raise ProtocolError("unknown code")
            sid, time = patch[0][0]
            self.clock[sid] = max(time, self.clock.get(sid, 0))
            self.patches.append(patch)


def decode(body):
    if body == b"broken":
        raise ProtocolError("not a snapshot")
    return CountingDocument(int(body))


class Talk:
    """A machine, its clock, and what it asked for so far."""

    def __init__(self, *, budget_s=100.0, start=True, **settings):
        self.clock = StillClock()
        self.machine = Conversation(
            new=CountingDocument,
            decode=decode,
            budget_at=self.clock.now + budget_s,
            clock=self.clock,
            label="7",
            **settings,
        )
        self.actions = self.machine.start()
        if start:
            self.open()

    def give(self, *events):
        for event in events:
            self.actions = self.machine.handle(event)
        return self.actions

    def open(self):
        return self.give(UrlGot(), Opened(), Received('[8,"connected"]'))

    def hear(self, *message):
        return self.give(Received(json.dumps(message)))

    def answer(self, payload):
        return self.hear(4, self.request[1], payload)

    def patches(self, *patches):
        return self.answer({"type": "patches", "body": [[[list(p)]] for p in patches]})

    def snapshot(self, body=b"40"):
        self.answer({"type": "snapshot", "body": URL})
        return self.give(Fetched(body))

    def complete(self):
        return self.hear(5, self.request[1])

    def wait(self, seconds):
        self.clock.now += seconds
        return self.give(Tick())

    @property
    def request(self):
        """The last message that went out."""
        sent = [action.text for action in self.actions if isinstance(action, Send)]
        return json.loads(sent[-1])

    @property
    def outcome(self):
        return self.machine.outcome

    @property
    def end(self):
        return self.outcome.reason, self.outcome.phase


class TestRounds:
    def test_machine_when_not_greeted_yet_then_sends_nothing(self):
        """The hub must know the connection before the first request."""
        talk = Talk(start=False)

        assert talk.actions == [Connect()]
        assert talk.give(UrlGot(), Opened(), Received('[8,"ping"]')) == []
        assert talk.hear(8, "connected") == [Send('[1,1,"synchronize-clock",[]]')]

    @pytest.mark.req("S0-47")
    def test_machine_when_a_snapshot_is_offered_then_fetches_it_at_once(self):
        """Its URL lives half a minute: nothing else is waited for."""
        talk = Talk()

        assert talk.answer({"type": "snapshot", "body": URL}) == [Fetch(URL)]
        assert talk.give(Fetched(b"40")) == [Send('[1,2,"synchronize-clock",[[65535,40]]]')]
        assert talk.complete() == [Done(Outcome(Kind.COMPLETE))]

    @pytest.mark.req("S0-50")
    def test_machine_when_patches_come_first_then_asks_on_with_their_clock(self):
        """An answer of patches alone makes a document; the empty clock is never sent again."""
        talk = Talk()

        talk.patches((65_535, 3))
        assert talk.request[3] == [[65_535, 3]]
        talk.complete()

        assert talk.outcome.complete
        assert len(talk.machine.document.patches) == 1

    def test_machine_when_patches_keep_being_announced_then_a_single_read_ends(self):
        """A single read asks again for what was announced meanwhile, a bounded number of times."""
        talk = Talk(limits=GridLimits(rounds=2))
        rounds = 0

        talk.snapshot()
        while talk.outcome is None:
            request = talk.actions
            talk.hear(8, "new-patch")
            talk.actions = request
            talk.complete()
            rounds += 1

        assert talk.outcome.complete
        assert rounds == 3

    def test_machine_when_following_then_is_synced_until_a_patch_is_announced(self):
        """Following goes on after the completion, and asks once for many announcements."""
        talk = Talk(follow=True)
        talk.snapshot()

        assert talk.complete() == [Synced()]
        assert talk.machine.synced
        assert [type(a) for a in talk.hear(8, "new-patch")] == [Send]
        request = talk.actions
        assert talk.hear(8, "new-patch") == []
        talk.actions = request
        talk.complete()
        assert talk.request[:3] == [1, 4, "synchronize-clock"]
        assert talk.complete() == [Synced()]
        assert talk.machine.finish() == [Done(Outcome(Kind.COMPLETE))]

    def test_machine_when_a_later_round_brings_patches_then_asks_on(self):
        """A state is complete by an answer to its own clock, not by that of the round before."""
        talk = Talk(follow=True)
        talk.snapshot()
        talk.complete()
        talk.hear(8, "new-patch")

        talk.patches((65_535, 50))

        assert talk.request[3] == [[65_535, 50]]
        assert not talk.machine.synced
        assert talk.complete() == [Synced()]

    def test_machine_when_asked_again_then_makes_one_more_round(self):
        """A round can be asked for without an announcement."""
        talk = Talk(follow=True)
        talk.snapshot()
        talk.complete()

        talk.actions = talk.machine.ask_again()

        assert talk.request[1] == 3
        assert talk.complete() == [Synced()]

    def test_machine_when_following_ends_in_a_round_then_is_not_complete(self):
        """What was announced and not received makes the state partial."""
        talk = Talk(follow=True)
        talk.patches((65_535, 3))
        talk.complete()
        talk.hear(8, "new-patch")

        talk.machine.finish()

        assert talk.outcome.kind is Kind.PARTIAL


class TestTime:
    def test_wait_when_notifications_come_then_is_not_extended(self):
        """Only the answer ends the wait for it."""
        talk = Talk(timeouts=GridTimeouts(read_s=30))

        for _ in range(29):
            talk.clock.now += 1
            talk.hear(8, "ping")
        assert talk.outcome is None
        talk.wait(1)

        assert talk.end == (Reason.TIMEOUT, Phase.SYNC)

    def test_fetch_when_bytes_come_then_is_extended_and_else_ends(self):
        """A slow snapshot may take long, as long as it does not stop."""
        talk = Talk(timeouts=GridTimeouts(fetch_s=20))
        talk.answer({"type": "snapshot", "body": URL})

        for _ in range(3):
            talk.clock.now += 15
            talk.give(FetchProgress())
            talk.hear(8, "ping")
        assert talk.outcome is None
        talk.wait(20)

        assert talk.end == (Reason.TIMEOUT, Phase.FETCH)

    def test_budget_when_it_ends_then_ends_every_wait(self):
        """The budget is above all single waits."""
        talk = Talk(budget_s=10)

        assert talk.machine.wake_at() == talk.clock.now + 10
        talk.wait(10)

        assert talk.end == (Reason.TIMEOUT, Phase.SYNC)

    def test_url_when_rest_fails_or_is_late_then_ends_there(self):
        """The call for the URL has its own phase and its own time."""
        late, failed, slow = Talk(start=False), Talk(start=False), Talk(start=False)

        late.wait(30)
        failed.give(UrlFailed("no"))
        slow.give(UrlFailed("slow", timed_out=True))

        assert late.end == slow.end == (Reason.TIMEOUT, Phase.URL)
        assert failed.end == (Reason.REST, Phase.URL)


class TestLostConnection:
    def test_machine_when_closed_in_a_sync_then_goes_on_from_its_clock(self):
        """Growing pauses, a fresh URL each, and the clock of the document on the new connection."""
        talk = Talk()
        talk.snapshot()

        assert talk.give(Closed(1001)) == [Connect(1.0)]
        talk.wait(1)
        assert talk.give(UrlGot(), NotOpened("nobody")) == [Connect(2.0)]
        talk.wait(2)
        assert talk.give(UrlGot(), Opened(), Closed(1006)) == [Connect(4.0)]
        talk.wait(4)
        talk.open()
        assert talk.request[3] == [[65_535, 40]]
        talk.complete()

        assert talk.outcome.complete

    def test_machine_when_no_further_connection_comes_then_tells_the_first_cause(self):
        """The outcome names what was lost, and that connecting again did not help."""
        talk = Talk()
        talk.snapshot()

        talk.give(Closed(1001, "going away"))
        for _ in range(3):
            talk.wait(4)
            talk.give(UrlGot(), NotOpened("nobody"))

        assert (talk.outcome.kind, talk.outcome.reason, talk.outcome.code) == (
            Kind.PARTIAL,
            Reason.CLOSED,
            1001,
        )
        assert "going away" in talk.outcome.message
        assert "3 times" in talk.outcome.message

    def test_machine_when_the_budget_has_no_room_for_a_pause_then_ends(self):
        """No pause begins that the budget would cut."""
        talk = Talk(budget_s=10)
        talk.snapshot()
        talk.clock.now += 9.5

        talk.give(Closed(1006))

        assert (talk.outcome.reason, talk.outcome.code) == (Reason.CLOSED, 1006)

    def test_machine_when_closed_while_fetching_then_asks_for_a_snapshot_anew(self):
        """Without a document the next connection begins with the empty clock."""
        talk = Talk()
        talk.answer({"type": "snapshot", "body": URL})

        talk.give(Closed(1001))
        talk.wait(1)
        assert talk.give(Fetched(b"40")) == []
        talk.open()

        assert talk.request[3] == []

    @pytest.mark.parametrize("status", [401, 403])
    def test_machine_when_refused_twice_in_a_row_then_access_is_lost(self, status):
        """One refusal may be an old URL; the second with a fresh one is the end, also after a loss."""
        talk = Talk()
        talk.snapshot()

        talk.give(Closed(1008))
        talk.wait(1)
        assert [type(a) for a in talk.give(UrlGot(), NotOpened("no", status))] == [Connect]
        talk.wait(2)
        talk.give(UrlGot(), NotOpened("no", status))

        assert (talk.outcome.reason, talk.outcome.status) == (Reason.HANDSHAKE, status)

    def test_machine_when_late_in_connecting_again_then_tries_on(self):
        """A handshake or a greeting that never comes is a try like others, once there was a connection."""
        talk = Talk(limits=GridLimits(reconnects=2))
        talk.snapshot()

        talk.give(Closed(1001))
        talk.wait(1)
        talk.give(UrlGot())
        assert talk.wait(15) == [Connect(2.0)]
        talk.wait(2)
        talk.give(UrlGot(), Opened())
        talk.wait(20)

        assert talk.outcome.reason is Reason.CLOSED

    def test_machine_when_idle_then_pings_and_a_missing_pong_is_a_loss(self):
        """Long looks send signs of life; an answer proves that the hub knows the connection."""
        talk = Talk(budget_s=10_000, follow=True)
        talk.snapshot()
        talk.complete()

        assert talk.wait(240) == [Send('[8,"ping"]')]
        talk.hear(8, "pong")
        assert talk.wait(30) == []
        assert talk.wait(210) == [Send('[8,"ping"]')]
        assert talk.wait(30) == [Connect(1.0)]
        talk.wait(1)
        talk.open()
        assert talk.complete() == [Synced()]
        assert talk.wait(240) == [Send('[8,"ping"]')]

    def test_machine_when_a_round_ends_instead_of_a_pong_then_is_no_loss(self):
        """An answer is a sign of life as good as a pong."""
        talk = Talk(budget_s=10_000, follow=True)
        talk.snapshot()
        talk.complete()
        talk.wait(240)
        talk.actions = talk.machine.ask_again()
        talk.complete()

        assert talk.wait(240) == [Send('[8,"ping"]')]

    def test_machine_when_a_pong_comes_in_a_round_then_extends_nothing(self):
        """A sign of life is not the answer that is waited for."""
        talk = Talk(budget_s=10_000, follow=True)
        talk.snapshot()
        talk.complete()
        talk.wait(240)
        talk.actions = talk.machine.ask_again()

        talk.clock.now += 29
        talk.hear(8, "pong")
        talk.wait(1)

        assert talk.end == (Reason.TIMEOUT, Phase.SYNC)


@pytest.mark.req("S0-40")
@pytest.mark.parametrize(
    ("event", "reason"), [(Closed(1006), Reason.CLOSED), (Tick(), Reason.TIMEOUT)]
)
def test_end_when_not_complete_then_is_logged_with_its_reason(event, reason, caplog):
    """A closed connection or a wait that ended is in the log, and in the outcome."""
    caplog.set_level(logging.INFO)
    talk = Talk(limits=GridLimits(reconnects=0))
    talk.clock.now += 30

    talk.give(event)

    assert talk.outcome.reason is reason
    (record,) = [one for one in caplog.records if one.message == "grid.ended"]
    assert (record.fields["reason"], record.fields["session"]) == (reason, "7")


class TestStore:
    PATCH = [[[66_536, 50]], [0, 1]]  # noqa: RUF012

    def test_store_when_synced_then_is_kept_until_acknowledged(self):
        """A patch goes out once the document is whole, and is the service's with its answer."""
        talk = Talk(follow=True)
        talk.machine.store([self.PATCH])
        talk.snapshot()

        assert talk.request[2] == "patch"
        assert talk.complete()[0] == Acknowledged(self.PATCH)
        assert talk.request[2] == "synchronize-clock"
        assert talk.complete() == [Synced()]
        assert talk.machine.unstored == 0

    def test_store_when_the_connection_is_lost_then_goes_out_again_before_all_else(self):
        """The same patch, unchanged, is the first request of the next connection."""
        talk = Talk(follow=True)
        talk.snapshot()
        talk.complete()
        talk.actions = talk.machine.store([self.PATCH])
        assert talk.request[3] == self.PATCH

        talk.give(Closed(1006))
        talk.wait(1)
        talk.open()

        assert talk.request[2:] == ["patch", self.PATCH]
        assert talk.machine.unstored == 1

    def test_store_when_not_answered_then_is_no_success(self):
        """A patch that was not acknowledged makes no complete outcome."""
        talk = Talk(follow=True)
        talk.snapshot()
        talk.complete()
        talk.actions = talk.machine.store([self.PATCH])

        talk.machine.finish()

        assert not talk.outcome.complete


class TestTooMuch:
    @pytest.mark.req("S0-39")
    def test_machine_when_patches_never_end_then_stops_with_a_warning(self, caplog):
        """More than 10,000 patches without a completion are not read on; what is known is partial."""
        talk = Talk()

        time = 0
        while talk.outcome is None:
            talk.patches(*[(65_535, time + n) for n in range(1, 1001)])
            time += 1000

        assert (talk.outcome.kind, talk.outcome.reason) == (Kind.PARTIAL, Reason.LIMIT)
        assert time == 11_000
        (record,) = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert record.message == "grid.too_many_patches"

    def test_machine_when_three_answers_bring_nothing_then_stops(self):
        """Progress is a clock that grows; three answers in a row without are no progress, two are."""
        talk = Talk()
        talk.patches((65_535, 1))
        for _ in range(2):
            talk.patches((65_535, 1))
        talk.patches((65_535, 2))
        for _ in range(2):
            talk.answer({"type": "patches", "body": []})
        assert talk.outcome is None

        talk.patches((65_535, 2))

        assert talk.end == (Reason.NO_PROGRESS, Phase.SYNC)
        assert talk.outcome.kind is Kind.PARTIAL

    def test_machine_when_snapshots_never_end_then_stops(self):
        """A service that answers every clock with a snapshot is not followed for ever."""
        talk = Talk()
        fetched = 0
        while talk.outcome is None:
            talk.snapshot()
            fetched += 1

        assert talk.outcome.reason is Reason.NO_PROGRESS
        assert fetched <= 4


class TestSnapshot:
    def test_fetch_when_refused_then_asks_for_a_fresh_url_a_few_times(self):
        """403 means that the URL is too old: the empty clock brings another; not for ever."""
        talk = Talk()
        for _ in range(3):
            talk.answer({"type": "snapshot", "body": URL})
            talk.give(FetchFailed("no", status=403))
            assert talk.request[3] == []
        talk.answer({"type": "snapshot", "body": URL})
        talk.give(FetchFailed("no", status=403))

        assert talk.end == (Reason.FETCH, Phase.FETCH)
        assert talk.outcome.kind is Kind.FAILED

    def test_fetch_when_broken_off_then_is_tried_again_a_few_times(self):
        """Server errors and breaks are tried again by the same URL, after pauses."""
        talk = Talk()
        talk.answer({"type": "snapshot", "body": URL})
        for pause in (0.1, 0.5, 1.0):
            assert talk.give(FetchFailed("broke off")) == [Fetch(URL, pause)]
        talk.give(FetchFailed("unwell", status=503))

        assert (talk.outcome.reason, talk.outcome.status) == (Reason.FETCH, 503)

    def test_fetch_when_late_or_too_large_then_ends(self):
        """Neither is tried again."""
        late, large = Talk(), Talk()
        for talk in (late, large):
            talk.answer({"type": "snapshot", "body": URL})

        late.give(FetchFailed("not reached", timed_out=True))
        large.give(FetchFailed("too large", too_large=True))

        assert late.end == (Reason.TIMEOUT, Phase.FETCH)
        assert large.end == (Reason.LIMIT, Phase.FETCH)

    @pytest.mark.parametrize("url", ["http://h/x", "file:///etc/passwd", "x", "https://h/\n"])
    def test_snapshot_when_not_by_https_then_is_refused(self, url):
        """A snapshot comes by https, or by http where the socket itself is in the clear."""
        talk, plain = Talk(), Talk(plain_storage=True)

        talk.answer({"type": "snapshot", "body": url})

        assert talk.outcome.reason is Reason.PROTOCOL
        assert plain.answer({"type": "snapshot", "body": "http://h/x"}) == [Fetch("http://h/x")]

    def test_snapshot_when_a_later_one_is_broken_then_the_document_stays(self):
        """A document that was decoded is not lost by bytes that are none."""
        talk = Talk()
        talk.snapshot(b"40")
        talk.snapshot(b"broken")

        assert (talk.outcome.kind, talk.outcome.reason) == (Kind.PARTIAL, Reason.DECODE)
        assert talk.machine.document.clock == {65_535: 40}

    def test_patch_when_not_understood_then_starts_over_once(self):
        """A patch of unknown form leaves no half-changed document: the snapshot is asked for anew, once."""
        talk = Talk()
        broken = {"type": "patches", "body": [[[[65_535, 50]], "broken"]]}
        talk.snapshot()

        talk.answer(broken)
        assert talk.request[3] == []
        talk.snapshot(b"60")
        assert talk.request[3] == [[65_535, 60]]
        talk.answer(broken)

        assert talk.end == (Reason.PROTOCOL, Phase.SYNC)
        assert talk.outcome.kind is Kind.FAILED


class TestMessages:
    def test_message_when_unknown_then_is_logged_once(self, caplog):
        """Names that are not known are skipped, and told once each."""
        caplog.set_level(logging.INFO)
        talk = Talk()

        for _ in range(3):
            talk.hear(8, "brand-new")
            talk.hear(9, 1)

        assert talk.outcome is None
        assert caplog.messages == ["grid.unknown_message"] * 2

    @pytest.mark.parametrize(
        ("event", "reason"),
        [
            (Received(None), Reason.PROTOCOL),
            (Received("[8]"), Reason.PROTOCOL),
            (Closed(1009), Reason.PROTOCOL),
            (Received('{"message":"x"}'), Reason.GATEWAY),
            (Received('[8,"error"]'), Reason.SERVER),
            (Received('[6,1,{"message":"no"}]'), Reason.SERVER),
        ],
    )
    def test_message_when_bad_then_ends_at_once(self, event, reason):
        """Errors do not wait for a deadline."""
        talk = Talk()

        talk.give(event)

        assert talk.outcome.reason is reason
        assert talk.give(Tick(), Opened(), Received("[8]")) == []

    def test_message_when_it_answers_another_request_then_is_skipped(self):
        """Only the request in flight has an answer."""
        talk = Talk()

        assert talk.hear(5, 9) == []
        assert talk.hear(6, 9, "no") == []
        assert talk.hear(4, 9, [[[1, 1]]]) == []
        assert talk.outcome is None

    def test_error_when_it_quotes_a_url_then_the_query_is_cut_off(self):
        """What the service says may hold a signed URL; the outcome does not."""
        talk = Talk()

        talk.hear(8, "error", {"message": f"cannot read {URL} now"})

        assert talk.outcome.message == "cannot read https://storage.example/grid.cbor now"
        assert "secret" not in repr(Fetch(URL)) + repr(Received(f'[4,1,"{URL}"]'))
        assert without_queries("wss://h/x?a=1&b=2#c, ok") == "wss://h/x ok"
