"""The control API over a real Unix socket, asked by its own client."""

import http.client
import json
import socket
import threading

import pytest
from pydantic import TypeAdapter

from synd import errors
from synd.control import changes, contract, ready
from synd.control.connect import Control
from tests.support.daemons import control_api, until


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with control_api(tmp_path_factory.mktemp("c") / "s.sock") as served:
        yield served


@pytest.fixture
def api(shared):
    shared.services.__init__()  # a fresh fake behind the same server
    shared.lifecycle.stops.clear()
    return shared


GETS = [
    (contract.STATUS, {}, contract.Status),
    (contract.STATUS, {"path": "/mnt/synapse/P/a"}, contract.PathStatus),
    (contract.WHY, {"path": "/mnt/synapse/P/a"}, contract.Why),
    (contract.INFO, {"target": "syn5"}, contract.Info),
    (contract.LIST, {"target": "syn5", "long": 1}, contract.Listing),
    (contract.CACHE, {}, contract.CacheUsage),
    (contract.JOBS, {}, contract.Jobs),
    (contract.JOBS, {"all": 1, "kind": "prefetch", "limit": 3}, contract.Jobs),
    (contract.CONFIG, {}, dict[str, object]),
    (changes.PENDING, {}, changes.Pending),
    (changes.PENDING, {"path": "/mnt/synapse/P", "limit": 3}, changes.Pending),
    (changes.DIFF, {"path": "/mnt/synapse/P/a"}, changes.Difference),
    (changes.CONFLICTS, {"all": 1}, changes.Conflicts),
    (f"{changes.CONFLICTS}/3", {}, changes.Conflict),
    (changes.RECOVERED, {}, changes.RecoveredList),
    (changes.TRACKED, {}, changes.TrackedList),
    (ready.FORMATS, {}, ready.Formats),
]
POSTS = [
    (contract.WAIT, {"path": None, "timeout_s": 1}, contract.WaitReply),
    (contract.PREFETCH, {"targets": ["syn5"], "pin": False}, contract.Job),
    (ready.PREPARE, {"targets": ["syn5"]}, ready.Prepared),
    (contract.CACHE_CLEAR, {"targets": []}, contract.CacheReply),
    (contract.CACHE_PIN, {"targets": ["syn5"]}, contract.CacheReply),
    (contract.CACHE_UNPIN, {"targets": ["syn5"]}, contract.CacheReply),
    (contract.CACHE_VERIFY, {"targets": []}, contract.Job),
    (contract.JOBS_PAUSE, {"kinds": []}, contract.QueueState),
    (contract.JOBS_RESUME, {"kinds": ["verify"]}, contract.QueueState),
    (contract.JOBS_CLEAN, {}, contract.QueueState),
    (changes.DISCARD, {"targets": ["/mnt/synapse/P/a"]}, changes.Discarded),
    (changes.UPLOAD_NOW, {"path": None}, changes.Pending),
    (changes.PAUSE, {}, changes.Pending),
    (changes.RESUME, {}, changes.Pending),
    (changes.APPROVE, {"targets": []}, changes.Approved),
    (f"{changes.CONFLICTS}/3/resolve", {"keep": "both"}, changes.Conflict),
    (changes.RESTORE, {"target": "4"}, changes.Restored),
    (changes.COMMENT, {"path": "/m/a", "comment": "c", "label": ""}, changes.Unsent),
    (changes.ANNOTATE, {"path": "/m/a", "set": {"k": ["v"]}, "remove": []}, changes.Unsent),
    (changes.TRACK, {"folder": "/t", "target": "syn4"}, changes.Tracked),
    (changes.UNTRACK, {"folder": "/tracked"}, changes.Tracked),
    (
        contract.SHUTDOWN,
        {"timeout_s": 0, "lazy": False, "keep_mount": False},
        contract.ShutdownReply,
    ),
]


@pytest.fixture
def full(api):
    """One of each thing."""
    api.services.unsent = ["/mnt/synapse/P/a"]
    api.services.edits.add_conflict("3", "/mnt/synapse/P/a")
    api.services.edits.take("4", "/mnt/synapse/P/a")
    api.services.edits.folders["/tracked"] = {
        "folder": "/tracked", "entity": "syn4", "path": "", "since_at": "t", "state": "watching",
        "files": None, "unsent": 0, "problems": 0, "skipped": [], "scanned_at": None, "reason": "", "mend": "",
    }  # fmt: skip
    return api


class TestShapes:
    @pytest.mark.parametrize(("route", "query", "shape"), GETS, ids=lambda v: str(v)[:40])
    def test_get_always_answers_the_contract(self, full, route, query, shape):
        """Every GET has the shape that the contract states."""
        TypeAdapter(shape).validate_python(full.control.get(route, **query))

    @pytest.mark.parametrize(("route", "body", "shape"), POSTS, ids=lambda v: str(v)[:40])
    def test_post_always_answers_the_contract(self, full, route, body, shape):
        """Every POST has the shape that the contract states."""
        TypeAdapter(shape).validate_python(full.control.post(route, body))

    def test_openapi_always_holds_every_route(self, api):
        """The API describes itself."""
        told = api.control.get(contract.OPENAPI)

        routes = {
            value
            for name, value in (vars(contract) | vars(changes)).items()
            if name.isupper() and isinstance(value, str) and value.startswith("/v1/")
        } - {contract.OPENAPI}
        assert routes <= set(told["paths"])

    def test_log_level_when_put_is_told_back(self, api):
        """The level changes until the daemon ends; a wrong one is refused."""
        assert api.control.put(contract.LOG_LEVEL, {"level": "debug"}) == {"level": "DEBUG"}
        with pytest.raises(errors.UsageError, match="LOUD"):
            api.control.put(contract.LOG_LEVEL, {"level": "LOUD"})
        api.control.put(contract.LOG_LEVEL, {"level": "INFO"})

    def test_metrics_always_are_prometheus_text(self, api):
        """Families are together, counters end in _total, numbers are plain."""
        assert api.control.text(contract.METRICS) == (
            "# TYPE synd_cache_bytes gauge\n"
            "synd_cache_bytes 10\n"
            "# TYPE synd_requests_total counter\n"
            'synd_requests_total{kind="children"} 1\n'
            'synd_requests_total{kind="entity"} 2\n'
        )


class TestErrors:
    def test_error_when_a_service_raises_arrives_as_its_own_class(self, api):
        """The CLI sees what the daemon saw, hint, entity and path with it."""
        with pytest.raises(errors.NotFound) as caught:
            api.control.get(contract.INFO, target="syn404")

        assert caught.value.entity == "syn404"

    def test_error_when_a_field_is_missing_names_it(self, api):
        """Validation errors are usage errors, in our shape."""
        with pytest.raises(errors.UsageError, match="targets"):
            api.control.post(contract.PREFETCH, {"pin": True})

    def test_error_when_a_value_is_out_of_bounds_names_it(self, api):
        """No request may wait for ever."""
        with pytest.raises(errors.UsageError, match="timeout_s"):
            api.control.post(contract.WAIT, {"path": None, "timeout_s": 1e9})

    def test_error_when_the_route_is_unknown_is_not_found(self, api):
        """404, as a problem."""
        with pytest.raises(errors.NotFound, match="/v1/nothing"):
            api.control.get("/v1/nothing")

    def test_error_when_the_method_is_wrong_is_405_with_a_problem(self, api):
        """The status stays HTTP's own, the body is ours."""
        line = raw(api.path)
        line.request("DELETE", contract.STATUS)
        reply = line.getresponse()

        assert reply.status == 405
        assert reply.headers["Content-Type"] == contract.PROBLEM
        assert json.loads(reply.read())["type"] == "NotSupported"
        line.close()

    @pytest.mark.announces("control.bug")
    def test_error_when_a_service_has_a_bug_is_a_500_with_a_problem(self, api, monkeypatch):
        """A fault of ours is told as one, and the daemon lives on."""
        monkeypatch.setattr(api.services, "info", None)
        with pytest.raises(errors.SyndError, match="the daemon failed at /v1/info"):
            api.control.get(contract.INFO, target="syn5")

        assert api.control.get(contract.STATUS)["state"] == "ready"


class TestShutdown:
    def test_shutdown_when_all_is_sent_stops_and_says_so(self, api):
        """Drained, unmounted, then asked to stop."""
        reply = api.control.post(contract.SHUTDOWN, {"timeout_s": 1})

        assert reply["drained"] is True
        assert api.services.unmounted
        assert api.lifecycle.stops == [
            {"why": "shutdown request", "budget_s": 5.0, "keep_mount": False}
        ]

    def test_shutdown_when_something_is_unsent_stops_and_names_it(self, api):
        """It is safe on disk, so the stop goes on; the caller learns what is left."""
        api.services.unsent = ["/mnt/synapse/P/a"]
        reply = api.control.post(contract.SHUTDOWN, {"timeout_s": 0})

        assert reply["drained"] is False
        assert reply["pending"]["items"] == ["/mnt/synapse/P/a"]
        assert len(api.lifecycle.stops) == 1

    def test_shutdown_when_the_mount_is_in_use_changes_nothing(self, api):
        """Busy, and the daemon runs on; lazily it goes through."""
        api.services.in_use = True
        with pytest.raises(errors.Busy):
            api.control.post(contract.SHUTDOWN, {"timeout_s": 0})

        assert api.lifecycle.stops == []
        api.control.post(contract.SHUTDOWN, {"timeout_s": 0, "lazy": True})
        assert len(api.lifecycle.stops) == 1

    def test_shutdown_when_the_mount_is_to_be_kept_leaves_it(self, api):
        """A restart under the live mount neither drains nor unmounts."""
        api.services.unsent = ["/mnt/synapse/P/a"]
        api.control.post(contract.SHUTDOWN, {"timeout_s": 0, "keep_mount": True})

        assert not api.services.unmounted
        assert api.lifecycle.stops[0]["keep_mount"] is True

    def test_shutdown_always_drains_before_and_after_the_mount_goes(self, api):
        """What was closed meanwhile is sent too, all within one bound."""
        api.control.post(contract.SHUTDOWN, {"timeout_s": 5})
        first, second = (t for what, t in api.services.asked if what == "drain")

        assert first == 5
        assert 0 < second <= 5


class TestChanges:
    @pytest.mark.parametrize(
        ("route", "body", "field"),
        [
            (changes.DISCARD, {"targets": []}, "targets"),
            (f"{changes.CONFLICTS}/3/resolve", {"keep": "mine"}, "keep"),
            (changes.COMMENT, {"path": "/m/a", "comment": "x" * 300}, "comment"),
            (changes.TRACK, {"folder": "/t"}, "target"),
        ],
        ids=str,
    )
    def test_change_when_a_field_is_wrong_names_it(self, full, route, body, field):
        """And nothing is done."""
        with pytest.raises(errors.UsageError, match=field):
            full.control.post(route, body)

        assert full.services.edits.asked == []

    def test_events_when_asked_for_recent_ones_end_after_them(self, api):
        """With `since`, and without `follow`; a time that is none is refused."""
        api.services.recent = [
            {"id": 1, "kind": "job", "at": "2024-01-01T00:00:00.000Z", "data": {}},
            {"id": 2, "kind": "job", "at": "2024-01-03T00:00:00.000Z", "data": {}},
        ]
        found = list(api.control.events(since="2024-01-02T00:00:00Z", follow=False))

        assert [2] == [e["id"] for e in found]
        with pytest.raises(errors.UsageError, match="lately"):
            list(api.control.events(since="lately", follow=False))


class TestJobs:
    def test_job_when_made_can_be_listed_cancelled_and_retried(self, api):
        """The whole life of one over the API."""
        made = api.control.post(contract.PREFETCH, {"targets": ["syn5"]})

        assert [j["id"] for j in api.control.get(contract.JOBS)["jobs"]] == [made["id"]]
        assert api.control.job(made["id"], "cancel")["state"] == "cancelled"
        assert api.control.get(contract.JOBS)["jobs"] == []
        assert len(api.control.get(contract.JOBS, all=1)["jobs"]) == 1
        assert api.control.job(made["id"], "retry")["state"] == "running"

    def test_jobs_when_all_are_to_end_are_told(self, api):
        """In one request; with a kind only those of it."""
        made = api.control.post(contract.PREFETCH, {"targets": ["syn5"]})

        assert [] == api.control.post(contract.JOBS_CANCEL, {"kinds": ["verify"]})["jobs"]
        ended = api.control.post(contract.JOBS_CANCEL)
        TypeAdapter(contract.Jobs).validate_python(ended)
        assert [(made["id"], "cancelled")] == [(j["id"], j["state"]) for j in ended["jobs"]]

    def test_jobs_when_followed_arrive_as_they_change(self, api):
        """Server-sent events: what is active, then each change; a log until its job has ended."""
        made = api.control.post(contract.PREFETCH, {"targets": ["syn5"]})
        api.services.work.said[made["id"]] = "one\n"
        api.loop.call_soon_threadsafe(api.services.work.source.put_nowait, None)
        told = list(api.control.stream(contract.JOBS_FOLLOW))
        log = f"{contract.JOBS}/{made['id']}/log"

        assert [("job", made["id"])] == [(e["kind"], e["data"]["id"]) for e in told]
        assert ["one\n"] == [e["data"]["text"] for e in api.control.stream(log, follow=1)]
        TypeAdapter(contract.JobLog).validate_python(api.control.get(log, offset=2))
        with pytest.raises(errors.NotFound):
            list(api.control.stream(f"{contract.JOBS}/nope/log", follow=1))

    @pytest.mark.parametrize(
        ("route", "query"), [(contract.JOBS, "limit"), (f"{contract.JOBS}/{{}}/log", "offset")]
    )
    def test_number_that_nothing_holds_is_bad_usage(self, api, route, query):
        """400 as any other number out of bounds, where the database or a file would refuse it."""
        made = api.control.post(contract.PREFETCH, {"targets": ["syn5"]})

        for number in (-1, 1 << 63):
            with pytest.raises(errors.UsageError):
                api.control.get(route.format(made["id"]), **{query: number})

    def test_job_when_unknown_is_not_found(self, api):
        """404, whatever signs the id holds."""
        with pytest.raises(errors.NotFound):
            api.control.job("no such/job?")

    def test_post_that_starts_a_job_always_is_202_with_its_location(self, api):
        """A client that knows only HTTP finds the job."""
        line = raw(api.path)
        line.request(
            "POST",
            contract.PREFETCH,
            json.dumps({"targets": ["syn5"]}),
            {"Content-Type": "application/json"},
        )
        reply = line.getresponse()
        job = json.loads(reply.read())

        assert reply.status == 202
        assert reply.headers["Location"] == f"/v1/jobs/{job['id']}"
        line.close()


class TestEvents:
    def test_events_when_something_changes_arrive_in_order(self, api):
        """Server-sent events, one JSON object each."""
        events = [{"kind": "job", "at": "t", "data": {"n": n, "text": "é\n"}} for n in range(3)]
        seen = []

        def listen():
            for event in api.control.events(idle_s=20):
                seen.append(event)
                if len(seen) == 3:
                    return

        thread = threading.Thread(target=listen)
        thread.start()
        for event in events:
            api.loop.call_soon_threadsafe(api.services.source.put_nowait, event)
        thread.join(10)

        assert seen == events

    def test_events_when_the_listener_leaves_do_not_hold_the_server(self, api):
        """A stream that is cut is forgotten."""
        line = raw(api.path)
        line.request("GET", contract.EVENTS)
        line.getresponse().read(3)
        line.close()

        assert api.control.get(contract.STATUS)["state"] == "ready"


class TestClient:
    def test_call_when_there_is_no_socket_says_no_daemon(self, tmp_path):
        """With what to do."""
        with pytest.raises(errors.DaemonNotRunning) as caught:
            Control(tmp_path / "s.sock").get(contract.STATUS)

        assert "synd up" in caught.value.hint
        assert Control(tmp_path / "s.sock").alive() is None

    def test_call_when_the_socket_is_stale_says_no_daemon(self, tmp_path):
        """A socket file without a listener is no daemon."""
        left = socket.socket(socket.AF_UNIX)
        left.bind(str(tmp_path / "s.sock"))
        left.close()
        with pytest.raises(errors.DaemonNotRunning):
            Control(tmp_path / "s.sock").get(contract.STATUS)

    def test_call_when_nobody_answers_ends_at_its_time(self, tmp_path):
        """A daemon that hangs does not hang its callers."""
        with socket.socket(socket.AF_UNIX) as silent:
            silent.bind(str(tmp_path / "s.sock"))
            silent.listen(1)
            with pytest.raises(errors.DeadlineExceeded, match=r"0\.2 s"):
                Control(tmp_path / "s.sock").get(contract.STATUS, timeout_s=0.2)

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (b"", errors.DaemonNotRunning),
            (b"hello\r\n\r\n", errors.ProtocolError),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{]", errors.ProtocolError),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", errors.DaemonNotRunning),
            (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\nxx", errors.ProtocolError),
        ],
        ids=["closed at once", "no HTTP", "no JSON", "cut short", "500 without a problem"],
    )
    def test_call_when_the_answer_is_broken_is_an_error_of_ours(self, tmp_path, answer, error):
        """No foreign exception leaves the client."""
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(tmp_path / "s.sock"))
            listener.listen(1)

            def serve():
                line, _ = listener.accept()
                line.recv(4096)
                line.sendall(answer)
                line.close()

            thread = threading.Thread(target=serve)
            thread.start()
            with pytest.raises(error):
                Control(tmp_path / "s.sock", timeout_s=5).get(contract.STATUS)
            thread.join(5)

    def test_call_when_the_path_is_too_long_for_the_kernel_works_all_the_same(self, tmp_path):
        """A home that lies deep is no reason to fail."""
        deep = tmp_path / ("d" * 60) / ("e" * 60)
        deep.mkdir(parents=True)
        with socket.socket(socket.AF_UNIX) as listener:
            from synd.control.connect import socket_address

            with socket_address(deep / "s.sock") as address:
                listener.bind(address)
            listener.listen(1)

            def serve():
                line, _ = listener.accept()
                line.recv(4096)
                line.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")
                line.close()

            thread = threading.Thread(target=serve)
            thread.start()

            assert Control(deep / "s.sock", timeout_s=5).get("/x") is True
            thread.join(5)


def raw(path) -> http.client.HTTPConnection:
    """A plain HTTP connection over the socket."""
    line = http.client.HTTPConnection("x", timeout=10)
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.settimeout(10)
    line.sock.connect(str(path))
    return line


def test_until_when_it_never_comes_fails():
    """The helper of these tests has a bound itself."""
    with pytest.raises(AssertionError, match="did not come about"):
        until(lambda: False, 0.02)
