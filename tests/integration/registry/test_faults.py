"""Failures on request, at REST and at bytes."""

import os
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.mounts import eventually

DATA = os.urandom(100_000)


@pytest.fixture
def file(api, project):
    return api.file(project, "f.bin", DATA)


def get(url):
    with httpx.Client(trust_env=False) as client:
        return client.get(url)


class TestRest:
    def test_third_matching_request_fails_and_no_other(self, api, shared, project):
        """`nth` picks one request."""
        shared.fault(method="GET", path=f"/entity/{project}$", action="status", status=503, nth=3)

        asked = [api.http.get(f"/repo/v1/entity/{project}").status_code for _ in range(4)]

        assert [200, 200, 503, 200] == asked

    def test_drop_before_leaves_nothing_done(self, api, shared, project):
        """The connection ends, the request was not handled."""
        shared.fault(method="POST", path="/entity$", action="drop-before")

        with pytest.raises(httpx.TransportError):
            api.folder(project, "d")

        api.folder(project, "d")

    def test_drop_after_has_done_it(self, api, shared, project):
        """The request was handled, its answer lost: the repetition meets a 409."""
        shared.fault(method="POST", path="/entity$", action="drop-after")

        with pytest.raises(httpx.TransportError):
            api.folder(project, "d")

        body = {"concreteType": "org.sagebionetworks.repo.model.Folder", "name": "d"}
        api.refused(409, "POST", "/repo/v1/entity", body | {"parentId": project})

    def test_truncated_answer_is_shorter_than_announced(self, api, shared, project):
        """The client sees a body that ends too early."""
        shared.fault(path=f"/entity/{project}$", action="truncate", bytes=10)

        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            api.http.get(f"/repo/v1/entity/{project}")

    def test_delay_is_waited(self, api, shared, project):
        """`seconds` before the request is handled."""
        shared.fault(path=f"/entity/{project}$", action="delay", seconds=0.3)

        assert api.http.get(f"/repo/v1/entity/{project}").elapsed.total_seconds() >= 0.3

    @pytest.mark.parametrize("side", ["rest", "bytes"])
    def test_hold_is_over_once_the_rules_are_cleared(self, api, shared, project, file, side):
        """However long it might have been."""
        url = f"{shared.url}/repo/v1/entity/{project}" if side == "rest" else api.url(file)
        headers = {"Authorization": f"Bearer {shared.token}"} if side == "rest" else {}
        shared.fault(
            path="^/blob" if side == "bytes" else f"/{project}$", action="hold", seconds=600
        )
        with ThreadPoolExecutor(1) as other:
            answer = other.submit(httpx.get, url, headers=headers, timeout=60, trust_env=False)
            eventually(lambda: shared.call("GET", "/admin/faults")[1]["faults"][0]["hits"] == 1)
            assert not answer.done()
            shared.call("DELETE", "/admin/faults")

            assert answer.result(30).status_code == 200

    def test_add_failed_is_the_answer_of_that_name(self, api, shared):
        """One part is not accepted; the upload can go on."""
        shared.fault(method="PUT", path="/add/1", action="add-failed")

        with pytest.raises(AssertionError):
            api.upload(b"once more", "o.txt")

        assert api.upload(b"once more", "o.txt")

    def test_unknown_rule_is_400(self, api):
        """A fault that would never hit is told at once."""
        api.refused(400, "POST", "/admin/faults", {"action": "explode"})


class TestBytes:
    def test_expired_once(self, api, shared, file):
        """403 as of an old URL, then all is well."""
        shared.fault(path="^/blob/", action="expire")
        url = api.url(file)

        assert [403, 200] == [get(url).status_code, get(url).status_code]

    def test_truncated_body(self, api, shared, file):
        """Length announced, connection ended early."""
        shared.fault(path="^/blob/", action="truncate", bytes=70_000)

        with pytest.raises(httpx.TransportError):
            get(api.url(file))

    def test_one_byte_is_wrong(self, api, shared, file):
        """Length right, one byte inverted."""
        shared.fault(path="^/blob/", action="corrupt", bytes=12_345)

        body = get(api.url(file)).content

        assert len(body) == len(DATA)
        assert [12_345] == [i for i in range(len(DATA)) if body[i] != DATA[i]]

    def test_dropped_part_upload(self, api, shared):
        """A part whose connection breaks is not there."""
        shared.fault(method="PUT", path="^/part/", action="truncate", bytes=10)

        with pytest.raises(httpx.TransportError):
            api.upload(os.urandom(100_000), "part.bin")

    def test_log_tells_what_was_asked(self, api, shared, file):
        """Counters and newest requests, REST and bytes."""
        get(api.url(file))

        report = shared.requests()

        assert report["blob"] >= 1
        assert any(r["path"].startswith("/blob/") for r in report["requests"])
        assert any(c["route"] == "/file/v1/fileHandle/batch" for c in report["counters"])
