"""Spellings of changes: what is sent, and what is no answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from synd.client import wire_changes
from synd.client.remote import Outgoing
from synd.client.wire_changes import Destination, StoredCopy, UploadState
from synd.errors import ProtocolError
from synd.ids import EntityId, FileHandleId, Md5

MD5 = Md5("0" * 32)
CONTENT = Outgoing(Path("/x"), 10, MD5, "a.txt")
HANDLE = {"id": "7", "contentMd5": MD5, "contentSize": 10, "storageLocationId": 1}


def test_upload_request_when_repeated_says_the_same() -> None:
    """Nothing in it but the content and its place: the service knows it again by that."""
    one = wire_changes.upload_request(CONTENT, 8 << 20, 1)
    other = wire_changes.upload_request(CONTENT._replace(path=Path("/elsewhere")), 8 << 20, 1)

    assert one == other
    assert (one["contentMD5Hex"], one["fileSizeBytes"], one["fileName"]) == (MD5, 10, "a.txt")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            {"uploadId": 2, "state": "UPLOADING", "partsState": "010"},
            UploadState("2", "010", None),
        ),
        ({"uploadId": "2", "state": "UPLOADING"}, UploadState("2", "000", None)),
        (
            {"uploadId": "2", "state": "COMPLETED", "resultFileHandleId": "5"},
            UploadState("2", "111", FileHandleId(5)),
        ),
    ],
    ids=["under way", "nothing told", "complete"],
)
def test_upload_state_when_told_is_read(answer: Any, expected: UploadState) -> None:
    """Which parts are there, or the handle."""
    assert expected == wire_changes.upload_state(answer, 3)


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"uploadId": "2", "state": "UPLOADING", "partsState": "0101"},
        {"uploadId": "2", "state": "UPLOADING", "partsState": "0x1"},
        {"uploadId": "2", "state": "COMPLETED"},
    ],
    ids=["nothing", "empty", "more parts", "nonsense", "no handle"],
)
def test_upload_state_when_senseless_is_a_protocol_error(answer: Any) -> None:
    """Never an upload that seems complete."""
    with pytest.raises(ProtocolError):
        wire_changes.upload_state(answer, 3)


def test_part_urls_when_told_come_with_their_headers() -> None:
    """By number; headers that would end the request's head are refused."""
    row = {"partNumber": 1, "uploadPresignedUrl": "u"}

    assert {1: ("u", {})} == wire_changes.part_urls({"partPresignedUrls": [row]})
    signed = {**row, "signedHeaders": {"X-A": "b"}}
    assert {1: ("u", {"X-A": "b"})} == wire_changes.part_urls({"partPresignedUrls": [signed]})
    evil = {**row, "signedHeaders": {"X-A": "b\r\nX-C: d"}}
    with pytest.raises(ProtocolError):
        wire_changes.part_urls({"partPresignedUrls": [evil]})


def test_part_refusal_when_added_is_none() -> None:
    """An answer without a state is no success."""
    assert wire_changes.part_refusal({"addPartState": "ADD_SUCCESS"}) is None
    assert wire_changes.part_refusal({"addPartState": "ADD_FAILED", "errorMessage": "x"}) == "x"
    with pytest.raises(ProtocolError):
        wire_changes.part_refusal({})


@pytest.mark.parametrize(
    ("handle", "fits"),
    [
        (HANDLE, True),
        ({**HANDLE, "contentMd5": MD5.upper(), "contentSize": "10"}, True),
        ({**HANDLE, "contentSize": 11}, False),
        ({**HANDLE, "contentMd5": "1" * 32}, False),
        ({**HANDLE, "isPreview": True}, False),
        ({**HANDLE, "storageLocationId": 2}, False),
        ({"id": "7"}, False),
    ],
    ids=["same", "spelled otherwise", "size", "md5", "preview", "elsewhere", "unknown"],
)
def test_stored_copy_when_it_is_the_same_is_found(handle: Any, fits: bool) -> None:
    """Same bytes, same place, and no picture of them."""
    found = wire_changes.stored_copy(EntityId(3), {"list": [handle]}, MD5, 10, 1)

    assert found == (StoredCopy(FileHandleId(7), EntityId(3), 1) if fits else None)


def test_copied_when_refused_is_none() -> None:
    """Each copy succeeds or fails for itself."""
    refused = {"copyResults": [{"originalFileHandleId": "7", "failureCode": "UNAUTHORIZED"}]}
    made = {"copyResults": [{"newFileHandle": {"id": "8"}}]}

    assert wire_changes.copied(refused) is None
    assert wire_changes.copied({"copyResults": []}) is None
    assert wire_changes.copied(made) == 8


def test_destination_when_told_has_kind_and_place() -> None:
    """Kinds by their own name."""
    told = {"concreteType": "org.x.S3UploadDestination", "storageLocationId": 1}

    assert Destination("S3UploadDestination", 1) == wire_changes.destination(told)
    assert Destination("", None) == wire_changes.destination({})
