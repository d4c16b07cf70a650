"""Data and index over the control API: statuses, ranges, validators, and that looking starts nothing."""

from __future__ import annotations

import http.client
import json
import socket

import pytest

from synd.control import contract, ready
from tests.support.daemons import control_api
from tests.support.fake_app import NOW

BYTES = bytes(range(256)) * 3


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    with control_api(tmp_path_factory.mktemp("d") / "s.sock") as served:
        yield served


@pytest.fixture
def api(shared):
    shared.services.__init__()  # a fresh fake behind the same server
    held = shared.services.ready.contents
    held["syn5", "data"] = held["syn5", "index"] = BYTES
    held["syn5", "raw"] = b"raw"
    held["syn6", "data"] = held["syn6", "index"] = job("pending")
    return shared


def job(state: str, done: int = 0, total: int | None = None) -> contract.Job:
    return {
        "id": "abc123", "kind": "preprocess", "state": state, "subject": "x.vcf", "created_at": NOW,
        "started_at": NOW if done else None, "finished_at": None, "problem": None, "result": None,
        "progress": {"done": done, "total": total, "unit": "bytes", "note": ""},
    }  # fmt: skip


def ask(api, path: str, method: str = "GET", **headers: str):
    """(status, headers, body) of one request."""
    line = http.client.HTTPConnection("localhost", timeout=20)
    line.sock = socket.socket(socket.AF_UNIX)
    line.sock.settimeout(20)
    line.sock.connect(str(api.path))
    try:
        line.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
        answer = line.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        line.close()


@pytest.mark.req("S1-49")
@pytest.mark.req("S1-58")
@pytest.mark.parametrize("route", [ready.DATA, ready.INDEX])
@pytest.mark.parametrize(
    ("range", "status", "span"),
    [
        (None, 200, (0, 768)),
        ("bytes=0-0", 206, (0, 1)),
        ("bytes=5-20", 206, (5, 21)),
        ("bytes=700-", 206, (700, 768)),
        ("bytes=-8", 206, (760, 768)),
        ("bytes=-9999", 206, (0, 768)),
        ("bytes=760-99999", 206, (760, 768)),
        ("bytes=0-3,5-9", 200, (0, 768)),
    ],
)
def test_range_is_answered_by_its_bytes(api, route, range, status, span):
    """Inclusive ends, clipped at the end of the file; several ranges are answered by the whole."""
    headers = {} if range is None else {"Range": range}
    told, found, body = ask(api, f"{route}/syn5", **headers)

    assert (status, BYTES[slice(*span)]) == (told, body)
    assert "bytes" == found["Accept-Ranges"]
    assert str(len(body)) == found["Content-Length"]
    if status == 206:
        assert f"bytes {span[0]}-{span[1] - 1}/768" == found["Content-Range"]


@pytest.mark.req("S1-58")
@pytest.mark.parametrize(
    ("range", "status"),
    [("bytes=768-", 416), ("bytes=-0", 416), ("bytes=x-y", 400), ("lines=1-2", 400),
     ("bytes=9-3", 400)],
)  # fmt: skip
def test_range_that_cannot_be_is_refused(api, range, status):
    """Past the end with the size; malformed as a bad request."""
    told, found, body = ask(api, f"{ready.DATA}/syn5", Range=range)

    assert (status, status) == (told, json.loads(body)["status"])
    if status == 416:
        assert "bytes */768" == found["Content-Range"]


@pytest.mark.req("S1-58")
def test_head_has_the_length_and_no_bytes(api):
    """As GET would answer it, ranges too."""
    told, found, body = ask(api, f"{ready.DATA}/syn5", "HEAD")
    assert (200, "768", b"") == (told, found["Content-Length"], body)
    told, found, body = ask(api, f"{ready.DATA}/syn5", "HEAD", Range="bytes=1-2")

    assert (206, "2", b"") == (told, found["Content-Length"], body)


def test_etag_answers_conditions(api):
    """The same bytes are not sent again; a range of other bytes than were meant becomes the whole."""
    _, found, _ = ask(api, f"{ready.DATA}/syn5")
    etag = found["ETag"]
    assert etag.startswith('"sha256:')
    assert 304 == ask(api, f"{ready.DATA}/syn5", If_None_Match=etag)[0]
    assert 304 == ask(api, f"{ready.DATA}/syn5", If_None_Match=f'"x", W/{etag}')[0]
    assert 200 == ask(api, f"{ready.DATA}/syn5", If_None_Match='"x"')[0]
    assert 206 == ask(api, f"{ready.DATA}/syn5", Range="bytes=0-3", If_Range=etag)[0]

    told, _, body = ask(api, f"{ready.DATA}/syn5", Range="bytes=0-3", If_Range='"x"')
    assert (200, BYTES) == (told, body)


@pytest.mark.req("S1-50")
@pytest.mark.parametrize("route", [ready.DATA, ready.INDEX])
def test_what_is_not_made_yet_names_its_job(api, route):
    """202 with where to look and when to come again."""
    told, found, body = ask(api, f"{route}/syn6")

    assert (202, {"job_id": "abc123", "status": "pending"}) == (told, json.loads(body))
    assert (f"{contract.JOBS}/abc123", "5") == (found["Location"], found["Retry-After"])


@pytest.mark.req("S1-56")
@pytest.mark.parametrize("route", [ready.DATA, ready.INDEX])
def test_head_and_status_start_nothing(api, route):
    """404 of what could be made, and not ready."""
    assert 404 == ask(api, f"{route}/syn6", "HEAD")[0]
    told, _, body = ask(api, f"{route}/syn6/status")
    assert (200, {"ready": False}) == (told, json.loads(body))
    assert [] == api.services.ready.started

    assert {"ready": True, "name": "syn5"} == json.loads(ask(api, f"{route}/syn5/status")[2])


@pytest.mark.req("S1-59")
@pytest.mark.parametrize("route", [ready.DATA, ready.INDEX])
@pytest.mark.parametrize("range", ["", "bytes=1-2"])
def test_media_type_is_that_of_the_content(api, route, range):
    """Whole or in part, of what was made and of the service's own bytes."""
    for query in ("", "?raw=true") if route == ready.DATA else ("",):
        told, found, _ = ask(api, f"{route}/syn5{query}", **({"Range": range} if range else {}))
        assert told in (200, 206)
        assert found["Content-Type"].startswith("text/plain")


@pytest.mark.req("S1-57")
@pytest.mark.parametrize("word", ["maybe", "", "2"])
def test_raw_when_it_is_no_yes_and_no_no_is_a_mistake(api, word):
    """A word that is neither is not taken for one of them."""
    status, headers, body = ask(api, f"{ready.DATA}/syn5?raw={word}")

    assert (400, contract.PROBLEM) == (status, headers["content-type"])
    assert b"raw: " in body


def test_raw_is_the_file_itself(api):
    """For data; an index that lies nowhere is not found."""
    assert b"raw" == ask(api, f"{ready.DATA}/syn5?raw=true")[2]
    assert 404 == ask(api, f"{ready.DATA}/syn6?raw=true")[0]

    assert [] == api.services.ready.started


def test_unknown_file_is_not_found(api):
    """With a problem body."""
    told, found, body = ask(api, f"{ready.DATA}/syn99")

    assert (404, contract.PROBLEM) == (told, found["Content-Type"])
    assert "syn99" in json.loads(body)["title"]


class TestNames:
    @pytest.fixture
    def named(self, api):
        """A BAM with its BAI, and an index file of its own."""
        held, names = api.services.ready.contents, api.services.ready.names
        held["syn5", "data"], held["syn5", "index"] = b"data", b"index"
        names["syn5", "data"], names["syn5", "index"] = "x.sam.bam", "x.sam.bai"
        held["syn7", "raw"], names["syn7", "raw"] = b"own", "y.bam.bai"
        return api

    @pytest.mark.parametrize(
        ("path", "status", "body"),
        [(f"{ready.DATA}/syn5/x.sam.bam", 200, b"data"), (f"{ready.DATA}/syn5/any%20thing", 200, b"data"),
         (f"{ready.DATA}/syn5/x.sam.bam.bai", 200, b"index"), (f"{ready.DATA}/syn5/x.bai", 200, b"index"),
         (f"{ready.INDEX}/syn5/x.sam.bam.bai", 200, b"index"), (f"{ready.INDEX}/syn5/x", 200, b"index"),
         (f"{ready.DATA}/syn5/x.sam.bam.csi", 404, None), (f"{ready.INDEX}/syn5/x.bam.csi", 404, None),
         (f"{ready.DATA}/syn7/y.bam.bai", 200, b"own"), (f"{ready.DATA}/syn7/y.bam.bai.csi", 404, None),
         (f"{ready.DATA}/syn6/z.bam.bai", 202, None), (f"{ready.DATA}/syn6/z.bam", 202, None)],
    )  # fmt: skip
    def test_name_that_ends_like_an_index_is_the_index(self, named, path, status, body):
        """Of that kind only, as programs try one after the other; an index file by its own name is itself."""
        told, _, found = ask(named, path)

        assert status == told
        if body is not None:
            assert body == found

    def test_name_takes_ranges_and_conditions_and_starts_nothing_for_head(self, named):
        """As the plain address does."""
        assert (206, b"at") == ask(named, f"{ready.DATA}/syn5/x.bam", Range="bytes=1-2")[::2]
        assert 404 == ask(named, f"{ready.DATA}/syn6/z.bam.bai", "HEAD")[0]
        assert [] == named.services.ready.started


@pytest.mark.req("S1-59")
def test_media_type_is_what_the_services_say(api):
    """Of the whole and of a part."""
    for headers in ({}, {"Range": "bytes=0-3"}):
        assert ask(api, f"{ready.DATA}/syn5", **headers)[1]["Content-Type"].startswith("text/plain")
