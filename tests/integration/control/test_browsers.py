"""The loopback listener: who is let in, what is served there, and what a web page may read of it."""

from __future__ import annotations

import contextlib
import http.client
import json
import logging
import socket
import stat

import pytest

from synd.config import Config, folders
from synd.control import contract, ready
from synd.errors import Draining, QueueFull
from syndd.control.browsers import MOST_CONNECTIONS
from syndd.control.loopback import listening, make_token
from tests.support.daemons import control_api, until
from tests.support.fake_app import NOW

PAGE = "https://browser.example.org"
BYTES = bytes(range(256)) * 3
DATA = f"{ready.DATA}/syn5"
INDEX = f"{ready.INDEX}/syn5"


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    path = tmp_path_factory.mktemp("b") / "s.sock"
    (path.parent / "state").mkdir(mode=0o700)
    with control_api(path, Config(http_listen="127.0.0.1:0")) as served:
        yield served


@pytest.fixture
def api(shared):
    shared.services.__init__()  # a fresh fake behind the same server
    shared.lifecycle.__init__()
    held = shared.services.ready.contents
    held["syn5", "data"] = held["syn5", "index"] = BYTES
    held["syn5", "raw"] = b"raw"
    held["syn6", "data"] = held["syn6", "index"] = {
        "id": "abc123", "kind": "preprocess", "state": "pending", "subject": "x.vcf",
        "created_at": NOW, "started_at": None, "finished_at": None, "problem": None,
        "result": None, "progress": {"done": 0, "total": None, "unit": "bytes", "note": ""},
    }  # fmt: skip
    shared.services.known["abc123"] = held["syn6", "data"]
    return shared


def ask(api, path, method="GET", *, token=None, host=None, headers=()):
    """(status, headers, body). `token`: None the right one in a header; empty: none at all."""
    port = api.loopback.port
    line = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        line.putrequest(method, path, skip_host=True)
        for one in [f"127.0.0.1:{port}"] if host is None else host:
            line.putheader("Host", one)
        token = api.loopback.token if token is None else token
        if token:
            line.putheader("Authorization", f"Bearer {token}")
        for name, value in dict(headers).items():
            line.putheader(name, value)
        line.endheaders()
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        line.close()


@pytest.fixture
def heard():
    """All that is logged by us and by the web server, whatever other tests have set."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append
    loggers = [logging.getLogger(name) for name in ("syndd", "uvicorn.access", "uvicorn.error")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.addHandler(handler)
        one.setLevel(logging.DEBUG)
    yield records
    for one, level in zip(loggers, levels, strict=True):
        one.removeHandler(handler)
        one.setLevel(level)


def _answers(api) -> bool:
    try:
        return ask(api, DATA)[0] == 200
    except (ConnectionError, http.client.HTTPException):
        return False


class TestToken:
    def test_token_in_the_header_or_in_the_address_lets_in(self, api):
        """A genome browser cannot always set headers."""
        assert (200, BYTES) == ask(api, DATA)[::2]
        token = api.loopback.token

        assert (200, BYTES) == ask(api, f"{DATA}?token={token}", token="")[::2]
        assert (200, b"raw") == ask(api, f"{DATA}?raw=true&token={token}", token="")[::2]

    @pytest.mark.parametrize(
        ("token", "query"),
        [("", ""), ("x" * 43, ""), ("", "?token="), ("", "?token=x"), ("x", "?token={right}"),
         ("", "?token={right}&token={right}"), ("", "?Token={right}"), ("é", "")],
        ids=["none", "wrong", "empty", "wrong in the address", "wrong in the header, right in the address",
             "twice", "other name", "not ASCII"],
    )  # fmt: skip
    @pytest.mark.parametrize("path", [DATA, f"{contract.JOBS}/abc123", "/nowhere"])
    def test_without_the_token_nothing_is_told(self, api, path, token, query):
        """401 on every path, before it is looked at: not even that there is such a route."""
        query = query.format(right=api.loopback.token)
        status, found, body = ask(api, f"{path}{query}", token=token.encode().decode("latin-1"))

        assert (401, contract.PROBLEM) == (status, found["Content-Type"])
        assert "Bearer" == found["WWW-Authenticate"]
        assert "NotLoggedIn" == json.loads(body)["type"]
        assert [] == api.services.ready.started

    def test_token_is_never_logged_nor_handed_on(self, api, heard):
        """Whatever is asked, and however it fails."""
        token = api.loopback.token
        ask(api, f"{DATA}&token={token}", token="")  # misspelled by its user
        for path in (DATA, f"{ready.DATA}/syn99", "/nowhere", f"{DATA}?raw=maybe"):
            ask(api, f"{path}{'&' if '?' in path else '?'}token={token}", token="")
            body = ask(api, f"{path}?token={token}x", token="")[2]
            assert token.encode() not in body
        told = "".join(f"{one.getMessage()} {vars(one)}" for one in heard)

        assert "syn99" in told
        assert token not in told
        assert token not in repr(api.loopback)

    def test_token_is_kept_for_its_owner_alone(self, tmp_path):
        """It stays over a restart, unless others could have read it."""
        path = tmp_path / "http-token"
        made = make_token(path)
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert made == make_token(path)
        path.chmod(0o644)
        another = make_token(path)
        assert another != made
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        path.write_text("short\n")

        assert make_token(path) not in (made, another, "short")


class TestHost:
    @pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "[::1]", "LOCALHOST"])
    def test_names_of_this_machine_are_served(self, api, name):
        """With our port."""
        assert 200 == ask(api, DATA, host=[f"{name}:{api.loopback.port}"])[0]

    @pytest.mark.parametrize(
        "host",
        [["evil.example.org:{port}"], ["127.0.0.1"], ["127.0.0.1:1"], [], ["localhost.evil.org:{port}"],
         ["127.0.0.1:{port}", "evil.example.org"], ["127.0.0.1:{port}@evil.org"], [""]],
        ids=["rebound", "no port", "other port", "none", "suffix", "two", "user", "empty"],
    )  # fmt: skip
    def test_other_names_are_refused_though_the_token_is_right(self, api, host):
        """A page whose name was rebound to this machine still says its own."""
        host = [one.format(port=api.loopback.port) for one in host]
        status, _, body = ask(api, DATA, host=host)
        if status == 400:  # the parser refused it before us
            assert BYTES not in body
            return

        assert (403, "Forbidden") == (status, json.loads(body)["type"])
        assert 403 == ask(api, DATA, "OPTIONS", host=host)[0]


class TestRoutes:
    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", DATA), ("PUT", DATA), ("DELETE", DATA), ("PATCH", INDEX),
         ("POST", f"{contract.JOBS}/abc123"), ("DELETE", f"{contract.JOBS}/abc123")],
    )  # fmt: skip
    def test_other_methods_are_refused(self, api, method, path):
        """Nothing is changed here."""
        assert 405 == ask(api, path, method)[0]

    @pytest.mark.parametrize(
        ("method", "path"),
        [("POST", contract.SHUTDOWN), ("POST", ready.PREPARE), ("GET", contract.STATUS),
         ("GET", contract.CONFIG), ("GET", contract.JOBS), ("POST", f"{contract.JOBS}/abc123/cancel"),
         ("GET", f"{contract.JOBS}/abc123/log"), ("GET", contract.EVENTS), ("GET", contract.OPENAPI),
         ("GET", contract.METRICS), ("GET", f"{contract.LIST}?target=syn5")],
    )  # fmt: skip
    def test_all_else_of_the_control_api_is_not_there(self, api, method, path):
        """Only the owner's socket has it."""
        assert 404 == ask(api, path, method)[0]
        assert [] == api.lifecycle.stops

    @pytest.mark.req("S1-54")
    def test_job_of_what_is_not_made_yet_is_followed(self, api):
        """202 with its location, which is served here too; an unknown one is not found."""
        status, found, _ = ask(api, f"{ready.DATA}/syn6")
        assert (202, "5") == (status, found["Retry-After"])
        told = json.loads(ask(api, found["Location"])[2])
        assert ("abc123", "pending") == (told["id"], told["state"])
        assert ("pending", None, None) == (told["status"], told["error_class"], told["error"])

        assert 404 == ask(api, f"{contract.JOBS}/nonesuch")[0]

    def test_formats_and_readiness_are_told(self, api):
        """They start nothing."""
        assert ["bam"] == [
            one["format"] for one in json.loads(ask(api, ready.FORMATS)[2])["formats"]
        ]
        assert {"ready": False} == json.loads(ask(api, f"{ready.INDEX}/syn6/status")[2])
        assert 404 == ask(api, f"{ready.DATA}/syn6", "HEAD")[0]

        assert [] == api.services.ready.started


class TestPages:
    def test_range_of_another_page_is_readable_for_it(self, api):
        """With all the headers that a reader of ranges needs."""
        status, found, body = ask(api, DATA, headers={"Origin": PAGE, "Range": "bytes=5-20"})
        exposed = {one.strip() for one in found["Access-Control-Expose-Headers"].split(",")}
        assert (206, BYTES[5:21]) == (status, body)
        assert ("*", "Origin") == (found["Access-Control-Allow-Origin"], found["Vary"])

        assert {"Content-Range", "ETag", "Content-Length", "Accept-Ranges", "Location",
                "Retry-After"} <= exposed  # fmt: skip

    @pytest.mark.parametrize(
        ("path", "headers", "status"),
        [(DATA, {"Range": "bytes=768-"}, 416), (DATA, {"Range": "bytes=x"}, 400),
         (f"{ready.DATA}/syn99", {}, 404), (DATA, {"If-None-Match": '"sha256:syn5-data"'}, 304)],
    )  # fmt: skip
    def test_refusals_are_readable_for_a_page_too(self, api, path, headers, status):
        """Else it could only say that something failed."""
        told, found, _ = ask(api, path, headers={"Origin": PAGE, **headers})
        assert (status, "*") == (told, found["Access-Control-Allow-Origin"])
        assert (401, "*") == (
            (no := ask(api, path, token="", headers={"Origin": PAGE}))[0],
            no[1]["Access-Control-Allow-Origin"],
        )

        if status == 416:
            assert "bytes */768" == found["Content-Range"]

    def test_range_of_other_bytes_than_were_meant_becomes_the_whole(self, api):
        """If-Range, as the file may have changed between two requests of a page."""
        right = {"Range": "bytes=0-3", "If-Range": '"sha256:syn5-data"'}
        assert 206 == ask(api, DATA, headers=right)[0]

        assert (200, BYTES) == ask(api, DATA, headers=right | {"If-Range": '"other"'})[::2]

    def test_preflight_allows_a_range_without_a_token(self, api):
        """Browsers send none with it; a public page is told that it may reach this machine."""
        status, found, body = ask(
            api, DATA, "OPTIONS", token="",
            headers={"Origin": PAGE, "Access-Control-Request-Method": "GET",
                     "Access-Control-Request-Headers": "range,authorization",
                     "Access-Control-Request-Private-Network": "true"},
        )  # fmt: skip
        allowed = {one.strip().lower() for one in found["Access-Control-Allow-Headers"].split(",")}
        assert (204, b"", "*") == (status, body, found["Access-Control-Allow-Origin"])
        assert {"range", "authorization", "if-range", "if-none-match"} <= allowed
        assert "GET, HEAD, OPTIONS" == found["Access-Control-Allow-Methods"]

        assert "true" == found["Access-Control-Allow-Private-Network"]

    def test_page_in_a_file_cannot_run(self, api):
        """Whatever a file holds, a browser that opens its address runs no script beside the token."""
        _, found, _ = ask(api, DATA)

        assert "sandbox" in found["Content-Security-Policy"]
        assert ("nosniff", "no-referrer") == (
            found["X-Content-Type-Options"],
            found["Referrer-Policy"],
        )

    def test_pages_that_are_not_named_are_refused(self, tmp_path):
        """Once http_origins names who may ask; programs that are no pages still may."""
        (tmp_path / "state").mkdir()
        config = Config(http_listen="127.0.0.1:0", http_origins=(PAGE,))
        with control_api(tmp_path / "s.sock", config) as api:
            api.services.ready.contents["syn5", "data"] = BYTES
            status, found, _ = ask(api, DATA, headers={"Origin": PAGE})
            assert (200, PAGE, "Origin") == (
                status, found["Access-Control-Allow-Origin"], found["Vary"]
            )  # fmt: skip
            for page in ("https://evil.example.org", "null", f"{PAGE}.evil.org"):
                for method in ("GET", "OPTIONS"):
                    status, found, _ = ask(api, DATA, method, headers={"Origin": page})
                    assert (403, None) == (status, found["Access-Control-Allow-Origin"])

            assert 200 == ask(api, DATA)[0]


class TestBusy:
    @pytest.mark.parametrize(
        ("error", "status"), [(QueueFull("already 3 jobs wait"), 429), (Draining("stopping"), 503)]
    )
    def test_full_queue_and_drain_say_when_to_come_again(self, api, error, status):
        """On the socket and here alike; what is made already is served on."""
        api.services.ready.refusal = error
        told, found, body = ask(api, f"{ready.DATA}/syn6", headers={"Origin": PAGE})
        assert (status, "5") == (told, found["Retry-After"])
        assert (type(error).__name__, status) == (
            json.loads(body)["type"],
            json.loads(body)["status"],
        )
        with pytest.raises(type(error)):
            api.control.get(f"{ready.DATA}/syn6")

        assert 200 == ask(api, DATA)[0]

    def test_busy_daemon_that_stops_is_unavailable(self, api):
        """What is held while it drains is held because of that."""
        api.services.in_use = True
        stop = {"timeout_s": 0, "lazy": False, "keep_mount": False}
        with pytest.raises(Exception, match="in use") as ready_one:
            api.control.post(contract.SHUTDOWN, stop)
        api.lifecycle.state = "draining"
        with pytest.raises(Draining, match="in use"):
            api.control.post(contract.SHUTDOWN, stop)

        assert "Busy" == type(ready_one.value).__name__


class TestListening:
    def test_connections_are_bounded(self, api):
        """Other users of this machine cannot use up the daemon's descriptors; the socket of its owner answers on."""
        address = ("127.0.0.1", api.loopback.port)
        with contextlib.ExitStack() as stack:
            for _ in range(MOST_CONNECTIONS):
                stack.enter_context(socket.create_connection(address, 10))
            # Behind those that are still to be accepted.
            late = stack.enter_context(socket.create_connection(address, 10))
            with contextlib.suppress(ConnectionResetError):
                assert b"" == late.recv(1)
            assert "ready" == api.control.get(contract.STATUS)["state"]

        until(lambda: _answers(api), what="room for others")

    def test_other_loopback_is_served_too(self, tmp_path):
        """IPv6."""
        (tmp_path / "state").mkdir()
        try:
            socket.create_server(("::1", 0), family=socket.AF_INET6).close()
        except OSError:
            pytest.skip("no IPv6 loopback on this machine")
        with control_api(tmp_path / "s.sock", Config(http_listen="[::1]:0")) as api:
            assert f"http://[::1]:{api.loopback.port}" == api.loopback.address
            line = http.client.HTTPConnection("::1", api.loopback.port, timeout=20)
            line.request("GET", f"{ready.FORMATS}?token={api.loopback.token}")
            answer = line.getresponse()
            answer.read()
            line.close()

        assert 200 == answer.status

    def test_listener_is_off_unless_it_is_asked_for(self, tmp_path):
        """No port, and no token lies about."""
        found = folders({"SYND_HOME": str(tmp_path)})
        with listening(Config(), found) as loopback:
            assert loopback is None

        assert not found.http_token.exists()

    @pytest.mark.announces("browsers.off")
    def test_address_that_is_taken_is_told_and_done_without(self, tmp_path):
        """The mount is worth more than the listener."""
        (tmp_path / "state").mkdir()
        found = folders({"SYND_HOME": str(tmp_path)})
        with socket.create_server(("127.0.0.1", 0)) as other:
            wanted = f"127.0.0.1:{other.getsockname()[1]}"
            with listening(Config(http_listen=wanted), found) as loopback:
                told = loopback.told()

        assert ("", True) == (told["address"], wanted in told["problem"])
