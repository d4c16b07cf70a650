"""JSON ↔ values: tolerant of what may be absent, strict about what must be there, and quick."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from synd.client import wire
from synd.clock import NS, format_time, parse_time_ns
from synd.errors import ProtocolError
from synd.ids import EntityId, FileHandleId, Version
from synd.model import FileRef, Kind, LinkTarget, Store

MD5 = "0123456789abcdef0123456789abcdef"
FILE = {
    "concreteType": "org.sagebionetworks.repo.model.FileEntity",
    "id": "syn1003",
    "name": "a.txt",
    "etag": "6f6c",
    "parentId": "syn1002",
    "createdOn": "2026-01-31T08:00:00.123Z",
    "modifiedOn": "2026-01-31T08:00:00.456Z",
    "createdBy": "1",
    "modifiedBy": "2",
    "versionNumber": 3,
    "versionLabel": "three",
    "dataFileHandleId": "5001",
}
HANDLE = {
    "id": "5001",
    "concreteType": "org.sagebionetworks.repo.model.file.S3FileHandle",
    "contentMd5": MD5.upper(),
    "contentSize": 42,
    "fileName": "b.txt",
    "contentType": "text/plain",
}


def bundle(**changes: Any) -> dict[str, Any]:
    return {
        "entity": {k: v for k, v in {**FILE, **changes}.items() if v is not ...},
        "fileHandles": [{"id": "1", "concreteType": "x.PreviewFileHandle"}, HANDLE],
        "restrictionInformation": {"hasUnmetAccessRequirement": False},
    }


def header(number: int) -> dict[str, Any]:
    return {
        "id": f"syn{number}",
        "name": f"file {number}.txt",
        "type": "org.sagebionetworks.repo.model.FileEntity",
        "versionNumber": 1,
        "versionLabel": "1",
        "isLatestVersion": True,
        "benefactorId": 1,
        "createdOn": "2026-01-31T08:00:00.123Z",
        "modifiedOn": f"2026-02-{1 + number % 28:02d}T09:00:00.123Z",
        "createdBy": "3333",
        "modifiedBy": "3333",
    }


class TestEntity:
    """A bundle becomes an Entity."""

    def test_bundle_when_whole_becomes_an_entity(self) -> None:
        """The file handle is the one that the entity names, not the preview."""
        got = wire.entity_bundle(
            {
                **bundle(),
                "annotations": {"annotations": {"k": {"type": "LONG", "value": ["1", "2"]}}},
            }
        )

        assert (got.id, got.parent, got.kind, got.version) == (1003, 1002, Kind.FILE, 3)
        assert got.modified_on_ns - got.created_on_ns == 333_000_000
        assert got.annotations == {"k": ("LONG", ("1", "2"))}
        assert got.file is not None
        assert (got.file.handle, got.file.md5, got.file.size) == (5001, MD5, 42)
        assert (got.file.name, got.file.entity, got.file.version) == ("b.txt", 1003, 3)
        assert got.access.can_download

    def test_bundle_when_bare_has_defaults(self) -> None:
        """Null and absent are the same: nothing but id and name is needed."""
        bare = {"entity": {"id": "1003", "name": "x", "etag": None, "parentId": None}}
        got = wire.entity_bundle(bare)

        assert (got.kind, got.version, got.parent, got.etag) == (Kind.OTHER, None, None, "")
        assert got.file is None
        assert got.annotations == {}

    def test_handle_when_left_out_means_no_download(self) -> None:
        """The service leaves the handle out when its bytes are not for the caller."""
        got = wire.entity_bundle({"entity": FILE})

        assert got.file is None
        assert not got.access.can_download

    def test_link_when_met_has_its_target(self) -> None:
        """With the version it is bound to, if it is."""
        link = {"concreteType": "org.sagebionetworks.repo.model.Link", "dataFileHandleId": ...}
        target = {"targetId": "syn9", "targetVersionNumber": 2}

        assert wire.entity_bundle(bundle(**link, linksTo=target)).link == LinkTarget(
            EntityId(9), Version(2)
        )
        assert wire.entity_bundle(bundle(**link, linksTo={"targetId": "syn9"})).link == LinkTarget(
            EntityId(9)
        )

    def test_external_handle_when_met_keeps_its_url_and_distrusts_its_md5(self) -> None:
        """What people typed is not a digest."""
        handle = {
            "id": "5001",
            "concreteType": "org.sagebionetworks.repo.model.file.ExternalFileHandle",
            "externalURL": "https://example.org/x",
            "contentMd5": "unknown",
            "contentSize": -1,
        }
        got = wire.entity_bundle({"entity": FILE, "fileHandles": [handle]}).file

        assert got is not None
        assert (got.store, got.md5, got.size) == (Store.EXTERNAL, None, None)
        assert got.external_url == "https://example.org/x"

    @pytest.mark.parametrize(
        ("concrete_type", "kind"),
        [
            ("org.sagebionetworks.repo.model.Project", Kind.PROJECT),
            ("org.sagebionetworks.repo.model.table.EntityView", Kind.ENTITY_VIEW),
            ("org.sagebionetworks.repo.model.docker.DockerRepository", Kind.DOCKER_REPO),
            ("org.sagebionetworks.repo.model.RecordSet", Kind.RECORD_SET),
            ("org.sagebionetworks.repo.model.search.table.SearchIndex", Kind.OTHER),
            ("file", Kind.FILE),
            ("folder", Kind.FOLDER),
            (None, Kind.OTHER),
        ],
    )
    def test_kind_when_spelled_either_way_is_known(
        self, concrete_type: str | None, kind: Kind
    ) -> None:
        """Classes and short names; what is newer than we are is OTHER."""
        assert kind is wire.kind_of(concrete_type)

    @pytest.mark.parametrize(
        "answer",
        [None, [], {}, {"entity": None}, {"entity": {"name": "x"}}, {"entity": {"id": "what", "name": "x"}},
         bundle(versionNumber="x"), bundle(modifiedOn="yesterday"), {"entity": "text"}],
    )  # fmt: skip
    def test_shape_when_wrong_is_a_protocol_error(self, answer: Any) -> None:
        """Nothing that Python raises over a wrong shape gets out."""
        with pytest.raises(ProtocolError, match="entity bundle"):
            wire.entity_bundle(answer)


class TestListings:
    """Pages of headers and of versions."""

    def test_page_when_parsed_has_all(self) -> None:
        """Order, token and counts."""
        got = wire.children_page(
            {
                "page": [header(2), header(1)],
                "nextPageToken": "50a50",
                "totalChildCount": 70,
                "sumFileSizesBytes": 9,
            }
        )

        assert [h.id for h in got.headers] == [2, 1]
        assert (got.next_token, got.total, got.sum_bytes) == ("50a50", 70, 9)

    def test_page_when_empty_is_empty(self) -> None:
        """No page, no token."""
        got = wire.children_page({"page": [], "nextPageToken": None})

        assert got.headers == ()
        assert got.next_token is None

    def test_page_of_50_when_parsed_takes_under_a_millisecond(self) -> None:
        """A million entities are 20 000 pages. Measured without the JSON parser, best of many."""
        answer = json.loads(json.dumps({"page": [header(n) for n in range(1, 51)]}))
        best = float("inf")
        for _ in range(50):
            began = time.perf_counter()
            wire.children_page(answer)
            best = min(best, time.perf_counter() - began)

        assert best < 0.001

    def test_versions_when_listed_bring_md5_and_size(self) -> None:
        """Sizes come as text there."""
        row = {
            "id": "syn1",
            "versionNumber": 2,
            "contentSize": "42",
            "contentMd5": MD5,
            "fileHandleId": "5",
        }
        (got,) = wire.version_list({"results": [{**row, "isLatestVersion": True}]})

        assert (got.number, got.size, got.md5, got.handle, got.is_latest) == (2, 42, MD5, 5, True)
        (bare,) = wire.version_list({"results": [{"id": "syn1", "versionNumber": 2}]})
        assert (bare.size, bare.md5, bare.handle, bare.is_latest) == (None, None, None, False)

    @pytest.mark.parametrize(
        "root",
        [[], [{"id": "syn4489", "name": "root", "type": "org.sagebionetworks.repo.model.Folder"}]],
    )
    def test_path_when_it_begins_with_the_root_leaves_it_out(self, root: list[Any]) -> None:
        """The project comes first."""
        steps = [
            {"id": "syn1", "name": "P", "type": "org.sagebionetworks.repo.model.Project"},
            {"id": "syn2", "name": "d", "type": "org.sagebionetworks.repo.model.Folder"},
        ]
        assert wire.entity_path({"path": root + steps}) == [(1, "P"), (2, "d")]

    def test_request_for_children_names_every_kind(self) -> None:
        """Whatever a folder may hold is asked for; at the top only projects."""
        body = wire.children_request(EntityId(5), "50a50", "NAME", descending=True, counts=True)

        assert body["parentId"] == "syn5"
        assert {"file", "folder", "link", "recordset", "dockerrepo"} <= set(body["includeTypes"])
        assert {"project", "other"}.isdisjoint(body["includeTypes"])
        assert wire.children_request(None, None, "NAME", descending=False, counts=False)[
            "includeTypes"
        ] == ["project"]


class TestTimes:
    """The quick reading of times is the slow one's."""

    @given(st.datetimes(min_value=datetime(1971, 1, 1), max_value=datetime(2100, 1, 1)))  # noqa: DTZ001
    def test_time_when_spelled_as_usual_is_what_the_clock_module_reads(
        self, moment: datetime
    ) -> None:
        """Any millisecond from 1971 to 2100."""
        text = format_time(round(moment.replace(tzinfo=UTC).timestamp() * 1000) * 1_000_000)

        assert parse_time_ns(text) == wire.time_ns(text)

    @pytest.mark.parametrize(
        ("text", "ns"),
        [
            (None, 0),
            (1_700_000_000_123, 1_700_000_000_123_000_000),
            ("1970-01-01T00:00:01Z", NS),
            ("1970-01-01T01:00:01.5+01:00", NS * 3 // 2),
        ],
    )
    def test_time_when_spelled_otherwise_is_read_too(self, text: Any, ns: int) -> None:
        """None, milliseconds, and the rest of ISO 8601."""
        assert ns == wire.time_ns(text)


class TestBatches:
    """File handles in batches, and when their URLs end."""

    def test_batch_when_answered_keeps_the_order_asked_for(self) -> None:
        """What the service leaves out counts as not found."""
        refs = [FileRef(FileHandleId(n), EntityId(9)) for n in (3, 1, 2)]
        got = wire.file_batch(
            refs,
            {
                "requestedFiles": [
                    {"fileHandleId": "1", "failureCode": "UNAUTHORIZED"},
                    {
                        "fileHandleId": "3",
                        "preSignedURL": "https://h/x",
                        "fileHandle": {**HANDLE, "id": "3"},
                    },
                ]
            },
        )

        assert refs == [g.ref for g in got]
        assert [(g.url, g.failure) for g in got] == [
            ("https://h/x", None),
            (None, "UNAUTHORIZED"),
            (None, "NOT_FOUND"),
        ]
        assert got[0].file is not None

    @pytest.mark.parametrize(
        ("url", "text"),
        [
            (
                "https://h/x?X-Amz-Date=20260131T080000Z&X-Amz-Expires=30&X-Amz-Signature=s",
                "2026-01-31T08:00:30.000Z",
            ),
            (
                "https://h/x?X-Goog-Date=20260131T080000Z&X-Goog-Expires=900",
                "2026-01-31T08:15:00.000Z",
            ),
            ("https://h/x?Expires=1769846400&Signature=s", "2026-01-31T08:00:00.000Z"),
            ("https://h/x?X-Amz-Date=nonsense&X-Amz-Expires=30", None),
            ("https://h/x?X-Amz-Date=20260131T080000Z&X-Amz-Expires=many", None),
            ("https://h/x?a=b", None),
            ("https://h/x", None),
        ],
    )
    def test_expiry_when_told_by_the_url_is_read(self, url: str, text: str | None) -> None:
        """Storage vendors spell it differently; 0 when it cannot be told."""
        expected = 0 if text is None else parse_time_ns(text)

        assert expected == wire.url_expiry_ns(url)

    @given(st.lists(st.integers(), max_size=50), st.integers(1, 10))
    def test_parts_when_joined_are_the_whole(self, items: list[int], size: int) -> None:
        """Nothing is lost between batches, and none is too large."""
        parts = list(wire.parts(items, size))

        assert items == [item for part in parts for item in part]
        assert all(1 <= len(part) <= size for part in parts)


class TestViewRows:
    """A view's CSV becomes rows."""

    def rows(self, text: str, size: int = 100) -> list[list[Any]]:
        return list(wire.view_batches(text.splitlines(keepends=True), size))

    def test_csv_when_whole_becomes_rows(self) -> None:
        """Columns may come in any order; empty cells are None."""
        ((first, second),) = self.rows(
            "name,id,type,parentId,modifiedOn,currentVersion,dataFileHandleId,dataFileSizeBytes,dataFileMD5Hex,dataFileConcreteType,more\n"
            f'"a, ""b"".txt",syn7,file,syn1,1769846400000,2,5001,42,{MD5},org.sagebionetworks.repo.model.file.S3FileHandle,x\n'
            "dir,8,folder,syn1,1769846400001,1,,,,,\n"
        )

        assert (first.name, first.id, first.parent, first.kind) == ('a, "b".txt', 7, 1, Kind.FILE)
        assert (first.handle, first.size, first.md5, first.store) == (5001, 42, MD5, Store.S3)
        assert first.modified_on_ns == 1_769_846_400_000_000_000
        assert (second.id, second.kind, second.handle, second.size) == (8, Kind.FOLDER, None, None)

    def test_csv_when_escaped_the_services_way_is_read(self) -> None:
        """Quotes may be doubled or come after a backslash; cells may hold line breaks."""
        ((row,),) = self.rows('id,name,type,parentId,modifiedOn\n1,"x \\"y\\"\nz",file,2,3\n')

        assert row.name == 'x "y"\nz'

    def test_csv_when_long_comes_in_batches(self) -> None:
        """Memory is bounded by a batch."""
        text = "id,name,type,parentId,modifiedOn\n" + "".join(
            f"{n},n,file,1,2\n" for n in range(1, 26)
        )

        assert [len(batch) for batch in self.rows(text, 10)] == [10, 10, 5]

    @pytest.mark.parametrize(
        "text",
        [
            "id,name\n1,x\n",
            "id,name,type,parentId,modifiedOn\nwhat,x,file,1,2\n",
            "id,name,type,parentId,modifiedOn\n1,x\n",
            'id,name,type,parentId,modifiedOn\n1,"x,file,1,2\n',
        ],
        ids=["columns", "id", "short", "quote"],
    )
    def test_csv_when_broken_is_a_protocol_error(self, text: str) -> None:
        """What is not such a CSV does not pass as an empty one."""
        with pytest.raises(ProtocolError):
            self.rows(text)

    def test_csv_when_empty_has_no_rows(self) -> None:
        """A header alone, or nothing at all."""
        assert self.rows("id,name,type,parentId,modifiedOn\n") == []
        assert self.rows("") == []
