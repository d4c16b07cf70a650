"""Multipart upload: every rule of the sequence."""

import hashlib
import os
import socket
from urllib.parse import urlsplit

import httpx
import pytest

from tests.integration.registry.conftest import Api, multipart
from tests.support.registry import start_registry

BASE = "/file/v1/file/multipart"
MIB = 1 << 20


def put(url, data):
    return httpx.put(url, content=data, trust_env=False)


def md5(data):
    return hashlib.md5(data).hexdigest()


class TestStart:
    def test_same_request_goes_on_where_it_was(self, api):
        """The key is user and request: finished parts are 1 in partsState."""
        data = os.urandom(11 * MIB)
        first = api.ok("POST", BASE, multipart(data, "resume.bin"))
        upload = first["uploadId"]
        part = data[5 * MIB : 10 * MIB]
        put(api.part_urls(upload, [2])[2], part)
        api.ok("PUT", f"{BASE}/{upload}/add/2?partMD5Hex={md5(part)}")

        again = api.ok("POST", BASE, multipart(data, "resume.bin"))

        assert (again["uploadId"], again["partsState"]) == (upload, "010")
        assert api.upload(data, "resume.bin")

    def test_finished_upload_is_answered_at_once_with_the_same_handle(self, api):
        """Equal name and content: no byte moves. Another name is another upload."""
        handle = api.upload(b"same", "same.txt")

        again = api.ok("POST", BASE, multipart(b"same", "same.txt"))

        assert (again["state"], again["resultFileHandleId"]) == ("COMPLETED", handle)
        assert api.upload(b"same", "other.txt") != handle

    def test_forced_restart_forgets_the_old_upload(self, api):
        """`forceRestart=true` gives a new id."""
        request = multipart(b"restart", "r.txt")
        first = api.ok("POST", BASE, request)

        assert api.ok("POST", f"{BASE}?forceRestart=true", request)["uploadId"] != first["uploadId"]

    @pytest.mark.parametrize(
        "change",
        [
            {"fileSizeBytes": 0},
            {"partSizeBytes": 5 * MIB - 1},
            {"fileSizeBytes": 6 << 40},
            {"partSizeBytes": 5 * MIB, "fileSizeBytes": 10_001 * 5 * MIB},
            {"fileName": "x=1.txt"},
            {"contentMD5Hex": "xyz"},
        ],
        ids=["empty", "small part", "too big", "too many parts", "name", "md5"],
    )
    def test_what_the_service_refuses_is_400(self, api, change):
        """Sizes, names and digests are checked before a byte moves."""
        api.refused(400, "POST", BASE, multipart(b"abc", "a.txt") | change)

    def test_upload_is_for_who_started_it(self, api):
        """403 for another user."""
        upload = api.ok("POST", BASE, multipart(b"mine", "m.txt"))["uploadId"]
        other = api.user()

        other.refused(403, "PUT", f"{BASE}/{upload}/complete")
        other.http.close()


class TestParts:
    @pytest.fixture
    def upload(self, api):
        return api.ok("POST", f"{BASE}?forceRestart=true", multipart(b"abcdef", "p.txt"))[
            "uploadId"
        ]

    def test_wrong_digest_is_add_failed_and_can_be_mended(self, api, upload):
        """ADD_FAILED is an answer, not an error; the right bytes then succeed."""
        url = api.part_urls(upload, [1])[1]
        put(url, b"abcdeX")
        failed = api.ok("PUT", f"{BASE}/{upload}/add/1?partMD5Hex={md5(b'abcdef')}")
        put(url, b"abcdef")
        mended = api.ok("PUT", f"{BASE}/{upload}/add/1?partMD5Hex={md5(b'abcdef')}")

        assert (failed["addPartState"], mended["addPartState"]) == ("ADD_FAILED", "ADD_SUCCESS")
        assert failed["errorMessage"]
        assert api.ok("PUT", f"{BASE}/{upload}/complete")["state"] == "COMPLETED"

    def test_put_answers_the_md5_as_etag(self, api, upload):
        """As object storage does for single parts."""
        answer = put(api.part_urls(upload, [1])[1], b"abcdef")

        assert answer.headers["etag"] == f'"{md5(b"abcdef")}"'

    @pytest.mark.parametrize("number", [0, 2])
    def test_number_outside_the_parts_is_400(self, api, upload, number):
        """Parts count from 1."""
        api.refused(400, "PUT", f"{BASE}/{upload}/add/{number}?partMD5Hex={md5(b'')}")
        api.refused(400, "POST", f"{BASE}/{upload}/presigned/url/batch", {"partNumbers": [number]})

    def test_broken_connection_leaves_no_part(self, api, upload, shared):
        """A body that ends early is dropped, on disk too."""
        parts = urlsplit(api.part_urls(upload, [1])[1])
        with socket.create_connection((parts.hostname, parts.port)) as connection:
            connection.sendall(
                f"PUT {parts.path}?{parts.query} HTTP/1.1\r\nContent-Length: 6\r\n\r\nabc".encode()
            )
        failed = api.ok("PUT", f"{BASE}/{upload}/add/1?partMD5Hex={md5(b'abc')}")

        assert failed["addPartState"] == "ADD_FAILED"

    def test_body_without_length_is_411(self, api, upload):
        """Object storage takes no chunked bodies either."""
        answer = put(api.part_urls(upload, [1])[1], iter([b"abcdef"]))

        assert answer.status_code == 411


class TestComplete:
    def test_missing_parts_are_told(self, api):
        """400 with their number."""
        upload = api.ok("POST", BASE, multipart(os.urandom(6 * MIB), "lack.bin"))["uploadId"]

        assert "2" in api.refused(400, "PUT", f"{BASE}/{upload}/complete")

    def test_whole_digest_is_verified(self, api):
        """The announced md5 must be that of the bytes; the next start begins anew."""
        request = multipart(b"abc", "w.txt") | {"contentMD5Hex": md5(b"abd")}
        upload = api.ok("POST", BASE, request)["uploadId"]
        put(api.part_urls(upload, [1])[1], b"abc")
        api.ok("PUT", f"{BASE}/{upload}/add/1?partMD5Hex={md5(b'abc')}")

        assert md5(b"abd") in api.refused(400, "PUT", f"{BASE}/{upload}/complete")
        assert api.ok("POST", BASE, request)["uploadId"] != upload

    def test_complete_twice_is_the_same_answer(self, api):
        """A repeated request after a lost answer changes nothing."""
        handle = api.upload(b"twice", "t.txt")
        upload = api.ok("POST", BASE, multipart(b"twice", "t.txt"))["uploadId"]

        assert api.ok("PUT", f"{BASE}/{upload}/complete")["resultFileHandleId"] == handle

    def test_upload_outlives_a_killed_registry(self, tmp_path):
        """Parts that were added are there after a crash and a restart."""
        data = os.urandom(6 * MIB)
        registry = start_registry(tmp_path / "data")
        api = Api(registry)
        upload = api.ok("POST", BASE, multipart(data, "k.bin"))["uploadId"]
        put(api.part_urls(upload, [1])[1], data[: 5 * MIB])
        api.ok("PUT", f"{BASE}/{upload}/add/1?partMD5Hex={md5(data[: 5 * MIB])}")
        api.http.close()
        registry.kill()

        registry = start_registry(tmp_path / "data")
        api = Api(registry)
        try:
            status = api.ok("POST", BASE, multipart(data, "k.bin"))
            assert (status["uploadId"], status["partsState"]) == (upload, "10")
            assert api.upload(data, "k.bin")
        finally:
            api.http.close()
            registry.stop()
