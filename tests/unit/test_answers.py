"""What the control API is told: status, paths, reasons, listings, the cache."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NotRequired, get_origin, get_type_hints

import pytest

from synd.client.credentials import from_base
from synd.client.throttle import Limits
from synd.client.transfer import Downloader
from synd.client.transport import Status
from synd.config import Config
from synd.control import contract
from synd.errors import IntegrityError, NotFound, NotLoggedIn, NotSupported, SyndError, UsageError
from synd.ids import EntityId, syn
from synd.jobs.model import JobState
from synd.model import Access, Kind
from synd.processors.base import PIPELINE_VERSION, SYNAPSE, ArtifactKind
from synd.processors.keys import workflow_key
from synd.store.artifacts import ArtifactRow, RefusalRow, put_artifact, put_refusal
from synd.testing import FakeRemote, FakeStorage
from syndd.answers import Answers
from syndd.schedule.known import VERSIONS
from tests.support.mounts import eventually
from tests.support.parts import Parts, md5_of, noise

BIG = noise(3 << 20)


@dataclass
class Service:
    """Stands for the client: the remote's calls come through `Tree`."""

    downloader: Downloader
    status: Status


class Desk:
    """Answers over all parts."""

    def __init__(self, parts: Parts, root: Path) -> None:
        self.parts = parts
        self.mount = root / "mnt"
        self.client = Service(
            parts.downloader,
            Status(
                "https://x", True, 0, 0, 12, 0, 0, 0, 0, Limits(3, 600), {"GET /entity/{id}": 5}
            ),
        )
        self.answers = parts.call(
            lambda: Answers(
                config=Config(mount=str(self.mount)), endpoints=from_base("https://x.invalid"),
                work=parts.work, ready=parts.ready, tree=parts.tree, sizes=parts.sizes, streams=parts.streams,
                cache=parts.cache, fs=parts.fs, pins=parts.pins, poller=parts.poller,
                operations=parts.operations, waits=parts.waits, client=self.client,
                events=parts.events, session=lambda: None,
            )
        )  # fmt: skip

    @property
    def work(self):
        return self.answers.work

    def ask(self, call: str, *args: object, **more: object):
        return self.parts.run(getattr(self.answers, call)(*args, **more))

    def at(self, path: str) -> str:
        return str(self.mount / path)

    def offline(self) -> None:
        self.parts.remote.offline = True
        self.client.status = replace(self.client.status, online=False, offline_since_ns=5)


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def ids(remote: FakeRemote) -> dict[str, EntityId]:
    return remote.tree(None, {"P": {"d": {"a": b"aa", "big": BIG}, "empty": b""}, "Q": {"c": b"c"}})


@pytest.fixture
def desk(tmp_path: Path, remote: FakeRemote, ids: dict[str, EntityId]) -> Iterator[Desk]:
    with FakeStorage(remote), Parts(tmp_path, remote) as parts:
        yield Desk(parts, tmp_path)


def fits(found: object, shape: type) -> None:
    """All that the contract promises is there, and nothing else."""
    hints = get_type_hints(shape, include_extras=True)
    assert isinstance(found, dict)
    assert set(hints) >= set(found)
    assert {k for k, v in hints.items() if get_origin(v) is not NotRequired} <= set(found)


class TestStatus:
    def test_status_has_the_shape_of_the_contract(self, desk):
        """Every part of it, without a request to the service."""
        found = desk.ask("status")

        fits(found, contract.AppStatus)
        for part, shape in (
            ("service", contract.Service), ("freshness", contract.Freshness),
            ("cache", contract.CacheUsage), ("pending", contract.Pending),
        ):  # fmt: skip
            fits(found[part], shape)
        assert {} == desk.parts.remote.calls
        assert [] == found["mounts"] == found["problems"] == found["waits"] == found["transfers"]
        assert found["safe_to_stop"]

    def test_status_tells_of_transfers_and_waits(self, desk, remote):
        """What is on its way, what is waited for, since when and until when."""
        node = desk.parts.node("P/d/big").node
        remote.delay_s = 60
        desk.parts.fs.open(node, 0)
        waiting = desk.parts.fs.read(node, 1, 0, 100)
        found = eventually(lambda: (told := desk.ask("status"))["waits"] and told, timeout_s=20)
        remote.delay_s = 0
        waiting.result(20)
        desk.parts.fs.release(node, 1)

        (transfer,) = found["transfers"]
        fits(transfer, contract.Transfer)
        assert (desk.at("P/d/big"), len(BIG)) == (transfer["path"], transfer["total_bytes"])
        (wait,) = [w for w in found["waits"] if w["reason"] == "reading a file"]
        assert wait["since_at"] < wait["deadline_at"]

    @pytest.mark.announces("content")
    def test_problems_are_what_wants_attention(self, desk, ids):
        """Offline, a refused login, content that can never be right."""
        desk.offline()
        desk.answers.login_problem = NotLoggedIn("the token is not valid")
        desk.parts.streams.mark_corrupt(desk.parts.tree.entities.get(_known(desk, "P/d/a")).file())
        found = desk.ask("status")["problems"]

        assert ["NotLoggedIn", "Offline", "IntegrityError"] == [p["type"] for p in found]
        assert desk.at("P/d/a") == found[2]["path"]
        for problem in found:
            fits(problem, contract.Problem)
        assert not desk.ask("status")["service"]["online"]

    def test_freshness_names_the_folder_that_was_checked_longest_ago(self, desk):
        """As a path in the mount."""
        desk.parts.names("P/d")
        desk.parts.run(desk.parts.poller.step())
        found = desk.ask("status")["freshness"]

        assert found["watched"] >= 1
        assert found["folder"].startswith(str(desk.mount))

    def test_metrics_are_numbers(self, desk):
        """Prometheus takes nothing else."""
        found = desk.parts.call(desk.answers.metrics)

        assert all(isinstance(value, int | float) for value in found.values())
        assert 5 == found['requests_by_call_total{call="GET /entity/{id}"}']


def _known(desk: Desk, path: str) -> int:
    """The id of a path, looked up while the service can be reached."""
    was, desk.parts.remote.offline = desk.parts.remote.offline, False
    try:
        return desk.parts.node(path).ino
    finally:
        desk.parts.remote.offline = was


class TestPaths:
    @pytest.mark.parametrize(
        ("path", "entity", "version"),
        [
            ("P", "P", None), ("P/d", "P/d", None), ("P/d/a", "P/d/a", 1), ("P/d/a@1", "P/d/a", 1),
            ("P/d/@versions/a/1", "P/d/a", 1), ("P/d/@versions/a", "P/d/a", 1),
            ("P/d/@info/a.json", "P/d/a", 1), ("P/d/@versions", "P/d", None), ("P/d/@info", "P/d", None),
            ("@info/P.json", "P", None), ("P/d/", "P/d", None),
        ],
    )  # fmt: skip
    def test_path_in_the_mount_names_what_is_there(self, desk, ids, path, entity, version):
        """Also synd's own folders and files."""
        found = desk.ask("status_of", desk.at(path))

        fits(found, contract.PathStatus)
        assert (f"syn{ids[entity]}", version) == (found["entity"], found["version"])
        assert desk.at(entity) == found["path"]

    def test_id_names_an_entity_in_every_spelling(self, desk, ids):
        """As a path, as an argument, with a version, with what lies below."""
        file, folder = f"syn{ids['P/d/a']}", f"syn{ids['P/d']}"
        for target in (
            file, str(ids["P/d/a"]), f"{file}.1", desk.at(f"@id/{file}"), desk.at(f"@id/{folder}/a"),
            desk.at(f"@id/{file}.1"),
        ):  # fmt: skip
            found = desk.ask("status_of", target)
            assert (file, 1, desk.at("P/d/a")) == (found["entity"], found["version"], found["path"])

    @pytest.mark.parametrize("path", ["", "@id"])
    def test_top_of_the_mount_is_no_entity(self, desk, path):
        """But has a state."""
        found = desk.ask("status_of", desk.at(path))

        assert ("", "top", "virtual") == (found["entity"], found["kind"], found["state"])

    @pytest.mark.parametrize(
        "path", ["P/nope", "P/d/a/below", "P/d/nope@1", "Nope", "P/d/@versions/nope/1"]
    )
    def test_path_that_leads_nowhere_is_not_found(self, desk, path):
        """With the path that was asked for."""
        with pytest.raises(NotFound):
            desk.ask("status_of", desk.at(path))

    def test_path_outside_the_mount_says_where_the_mount_is(self, desk):
        """The user may have meant another one."""
        with pytest.raises(NotFound, match="not in the mount"):
            desk.ask("status_of", "/etc/passwd")

    def test_what_is_neither_path_nor_id_is_bad_usage(self, desk):
        """Told at once, without a request."""
        with pytest.raises(UsageError):
            desk.ask("status_of", "readme.txt")
        assert {} == desk.parts.remote.calls


class TestStates:
    def state(self, desk: Desk, path: str) -> str:
        return desk.ask("status_of", desk.at(path))["state"]

    def test_state_of_a_file_follows_its_bytes(self, desk, ids):
        """Remote, on its way, in part, here, to stay."""
        parts = desk.parts
        parts.node("P/d/big")
        assert "remote" == self.state(desk, "P/d/big")
        node = parts.node("P/d/big").node
        with parts.opened(node, 1):
            parts.fs.read(node, 1, 2 << 20, 100).result(20)
            assert "fetching" == self.state(desk, "P/d/big")
        eventually(lambda: not parts.streams.progress())
        assert "partial" == self.state(desk, "P/d/big")
        assert 0 < desk.ask("status_of", desk.at("P/d/big"))["cached_bytes"] < len(BIG)
        parts.read("P/d/big")
        eventually(lambda: self.state(desk, "P/d/big") == "cached")
        assert len(BIG) == desk.ask("status_of", desk.at("P/d/big"))["cached_bytes"]
        parts.pins.pin(ids["P/d"])
        assert "pinned" == self.state(desk, "P/d/big")

    def test_empty_file_is_always_here(self, desk):
        """There is nothing to fetch."""
        desk.parts.node("P/empty")

        assert "cached" == self.state(desk, "P/empty")


class TestWhy:
    def why(self, desk: Desk, target: str) -> tuple[str, str]:
        found = desk.ask("why", target)
        fits(found, contract.Why)
        return found["reason"], found["mend"]

    def test_why_of_folders_says_whether_they_were_listed(self, desk):
        """And how many entries they have."""
        desk.parts.node("P")
        assert "not been asked for" in self.why(desk, desk.at("P"))[0]
        desk.parts.names("P")

        assert "listed, 2 entries" == self.why(desk, desk.at("P"))[0]
        assert "top of the mount" in self.why(desk, desk.at(""))[0]

    @pytest.mark.parametrize("name", ["P/@ready", "P/d/@versions", "P/@info", "P/d/@wiki", "@id"])
    def test_why_of_a_folder_of_synds_own_says_that_synd_makes_it(self, desk, name):
        """It is not the folder in which it lies."""
        found = desk.ask("why", desk.at(name))

        assert (found["state"], found["path"]) == ("virtual", desk.at(name))
        assert found["reason"].startswith("made by synd: ")

    def test_why_of_the_ids_elsewhere_than_at_the_top_is_not_found(self, desk):
        """There is one such folder."""
        with pytest.raises(NotFound, match="P/@id"):
            desk.ask("why", desk.at("P/@id"))

    def test_why_of_files_says_where_their_bytes_are(self, desk):
        """From nothing known to all here."""
        assert "fetched when it is read" in self.why(desk, desk.at("P/d/a"))[0]
        desk.parts.read("P/d/a")
        eventually(lambda: desk.parts.cache.has(md5_of(b"aa")))
        assert "all its bytes are here, verified by md5" == self.why(desk, desk.at("P/d/a"))[0]
        desk.parts.node("P/empty")
        assert "it is empty" == self.why(desk, desk.at("P/empty"))[0]

    def jobs(self, desk: Desk, target: str) -> list[contract.WhyJob]:
        found = desk.ask("why", target).get("jobs", [])
        for one in found:
            fits(one, contract.WhyJob)
        return found

    def claim(self, desk: Desk, number: EntityId, data: bytes) -> str:
        """A job that prepares a file; its id."""
        key = workflow_key(SYNAPSE, syn(number), md5_of(data), PIPELINE_VERSION)
        return desk.parts.queue.claim(
            "preprocess", "a", {"entity": number}, workflow_key=key
        ).job.id

    def test_why_of_a_file_tells_of_its_jobs_by_path_and_id(self, desk, ids):
        """Cancelled or waiting; no other file's, and none when all is done."""
        desk.parts.read("P/d/a")
        assert [] == self.jobs(desk, desk.at("P/d/a"))
        id = self.claim(desk, ids["P/d/a"], b"aa")
        assert [(id, "pending")] == [
            (one["id"], one["state"]) for one in self.jobs(desk, desk.at("P/d/a"))
        ]
        desk.parts.queue.cancel(id)

        assert ["cancelled"] == [one["state"] for one in self.jobs(desk, syn(ids["P/d/a"]))]
        assert [] == self.jobs(desk, desk.at("Q/c"))
        assert [] == self.jobs(desk, desk.at("P/d"))

    def test_why_of_content_that_was_refused_says_so_without_a_job(self, desk, ids):
        """Another file had the same bytes, or the job's row is gone."""
        desk.parts.read("P/d/a")
        refusal = RefusalRow(
            md5_of(b"aa"), "", 0, "SOURCE_CORRUPT", "bad CRC", None, time.time_ns()
        )
        with desk.parts.store.write() as tx:
            put_refusal(tx, refusal)
        [told] = self.jobs(desk, desk.at("P/d/a"))
        assert ("", "failed", "bad CRC", "SOURCE_CORRUPT") == (
            told["id"], told["state"], told["reason"], told["failure"],
        )  # fmt: skip
        assert "read as it is" in told["mend"]
        self.claim(desk, ids["P/d/a"], b"aa")

        assert ["pending"] == [one["state"] for one in self.jobs(desk, desk.at("P/d/a"))]

    def test_why_of_what_is_prepared_is_silent_about_jobs_that_were_not_needed(self, desk, ids):
        """Somebody else's had made the same."""
        desk.parts.read("P/d/a")
        desk.parts.queue.cancel(self.claim(desk, ids["P/d/a"], b"aa"))
        digest = md5_of(b"aa")
        row = ArtifactRow(
            cache_key="k/data", md5=digest, processor="bam_index", processor_version=1, kind="DATA",
            alias_of="source", digest=f"md5:{digest}", of_digest="", size=2, records=None, suffix="",
            toolchain="", content=digest, format="bam", extra={}, job="", created_ns=1, used_ns=1,
        )  # fmt: skip
        assert {("bam_index", row.processor_version)} <= VERSIONS
        index = row._replace(
            cache_key="k/index", kind="INDEX", of_digest=row.digest, digest="sha256:x"
        )
        with desk.parts.store.write() as tx:
            put_artifact(tx, row._replace(kind=str(ArtifactKind.DATA)))
        assert ["cancelled"] == [one["state"] for one in self.jobs(desk, desk.at("P/d/a"))]
        with desk.parts.store.write() as tx:
            put_artifact(tx, index._replace(kind=str(ArtifactKind.INDEX)))

        assert [] == self.jobs(desk, desk.at("P/d/a"))

    def test_why_of_a_file_without_a_size_says_that_it_is_asked_for(self, desk, ids):
        """A moment's state."""
        desk.parts.names("P/d")

        assert "size is still being asked for" in self.why(desk, desk.at("P/d/a"))[0]

    def test_why_while_offline_says_so(self, desk):
        """What is here stays readable; the rest waits."""
        desk.parts.node("P/d/a")
        desk.offline()
        reason, mend = self.why(desk, desk.at("P/d/a"))

        assert "cannot be reached" in reason
        assert "reconnect" == mend

    @pytest.mark.announces("content.corrupt")
    def test_why_of_corrupt_content_says_what_to_do(self, desk):
        """Until it is verified anew."""
        desk.parts.streams.mark_corrupt(desk.parts.row("P/d/a").file())
        reason, mend = self.why(desk, desk.at("P/d/a"))

        assert "not those the service promises" in reason
        assert "synd cache verify" in mend
        assert isinstance(
            desk.parts.streams.mark_corrupt(desk.parts.row("P/d/a").file()), IntegrityError
        )

    def test_why_of_what_may_not_be_read_names_the_page(self, desk, remote, ids):
        """Terms to accept, access to ask for."""
        remote.permit(ids["P/d/a"], Access(unmet_terms=True, can_download=False))
        remote.permit(ids["P/d/big"], Access(can_download=False))
        for path, word in (("P/d/a", "terms"), ("P/d/big", "not download")):
            desk.parts.node(path)
            reason, mend = self.why(desk, desk.at(path))
            assert word in reason
            assert f"syn{ids[path]}" in mend

    def test_why_of_links_and_tables_says_what_they_are(self, desk, remote, ids):
        """They have no bytes of their own."""
        remote.link(ids["P"], "l", ids["Q"])
        remote.other(ids["P"], "t", Kind.TABLE)
        remote.file(ids["P"], "web", None, external_url="https://example.invalid/x")
        assert "link to another" in self.why(desk, desk.at("P/l"))[0]
        assert "no bytes of its own" in self.why(desk, desk.at("P/t.csv"))[0]
        desk.parts.tree.detailed(desk.parts.tree.entities.child(ids["P"], b"web").id).result(20)

        assert "https://example.invalid/x" in self.why(desk, desk.at("P/web.url"))[1]

    def test_facts_are_plain_values(self, desk, ids):
        """For `--json`."""
        desk.parts.node("P/d/a")
        facts = desk.ask("why", desk.at("P/d/a"))["facts"]

        assert (f"syn{ids['P/d/a']}", 2, md5_of(b"aa"), "a") == (
            facts["entity"], facts["size"], facts["md5"], facts["name"],
        )  # fmt: skip


class TestInfoAndListing:
    def test_info_tells_all_of_an_entity(self, desk, remote, ids):
        """As the service has it now, of any version."""
        remote.annotate(ids["P/d/a"], k="v")
        remote.new_version(ids["P/d/a"], b"second!")
        found = desk.ask("info", desk.at("P/d/a"))
        fits(found, contract.Info)
        assert (7, 2, {"k": ["v"]}, desk.at("P/d/a")) == (
            found["size"], found["version"], found["annotations"], found["path"],
        )  # fmt: skip

        assert 2 == desk.ask("info", f"syn{ids['P/d/a']}.1")["size"]
        with pytest.raises(UsageError):
            desk.ask("info", desk.at(""))

    def test_listing_is_in_order_of_name_with_sizes_when_asked(self, desk):
        """Names at once; `--long` waits for what it shows."""
        short = desk.ask("ls", desk.at("P/d"), long=False)
        long = desk.ask("ls", desk.at("P/d"), long=True)

        fits(short, contract.Listing)
        assert ["a", "big"] == [e["name"] for e in short["entries"]]
        assert [2, len(BIG)] == [e["size"] for e in long["entries"]]
        assert 2 == long["total"]
        assert ["P", "Q"] == [e["name"] for e in desk.ask("ls", desk.at(""), long=False)["entries"]]
        assert ["a"] == [e["name"] for e in desk.ask("ls", desk.at("P/d/a"), long=True)["entries"]]


class TestCache:
    def test_clear_of_one_folder_leaves_the_rest(self, desk):
        """And tells what it freed."""
        for path in ("P/d/a", "Q/c"):
            desk.parts.read(path)
        eventually(lambda: 2 == desk.parts.cache.objects.total_count)
        found = desk.ask("cache_clear", [desk.at("P")])

        fits(found, contract.CacheReply)
        assert 1 == found["objects"]
        assert found["bytes"] > 0
        assert desk.parts.cache.has(md5_of(b"c"))
        assert not desk.parts.cache.has(md5_of(b"aa"))

    def test_clear_keeps_what_is_pinned_and_says_so(self, desk):
        """Of one folder and of all."""
        desk.ask("cache_pin", [desk.at("P/d/a")], pinned=True)
        for path in ("P/d/a", "Q/c"):
            desk.parts.read(path)
        eventually(lambda: 2 == desk.parts.cache.objects.total_count)
        assert (0, 1, "pinned") == tuple(
            desk.ask("cache_clear", [desk.at("P/d/a")])[k]
            for k in ("objects", "kept_objects", "kept_reason")
        )
        everything = desk.ask("cache_clear", [])

        assert (1, 1) == (everything["objects"], everything["kept_objects"])
        assert desk.parts.cache.has(md5_of(b"aa"))

    def test_pin_and_unpin_tell_what_they_hold(self, desk):
        """Files and their bytes, as far as known."""
        desk.parts.node("P/d/a")
        desk.parts.node("P/d/big")
        found = desk.ask("cache_pin", [desk.at("P/d")], pinned=True)

        assert (2, 2 + len(BIG)) == (found["objects"], found["bytes"])
        assert desk.ask("status_of", desk.at("P/d/a"))["pinned"]
        desk.ask("cache_pin", [desk.at("P/d")], pinned=False)
        assert not desk.ask("status_of", desk.at("P/d/a"))["pinned"]

    def test_usage_tells_of_objects_and_pins(self, desk):
        """No more than that has to be walked."""
        desk.ask("cache_pin", [desk.at("P/d/a")], pinned=True)
        desk.parts.read("P/d/a")
        eventually(lambda: 1 == desk.parts.cache.objects.total_count)
        desk.parts.pins.forget()
        found = desk.ask("cache_usage")

        assert (1, 2) == (found["objects"], found["pinned_bytes"])


class TestJobs:
    @pytest.mark.parametrize(
        "name", ["P/@id", "P/@versions", "P/@versions/d", "P/d/@info", "P/@info/d.json", "P/@wiki", "P/d/@ready", "@id"]
    )  # fmt: skip
    @pytest.mark.parametrize("call", ["prefetch", "cache_pin"])
    def test_cache_when_a_name_of_synds_own_is_given_then_refuses(self, desk, call, name):
        """All of the project is not what was asked for."""
        more = {"pin": False} if call == "prefetch" else {"pinned": True}
        with pytest.raises(NotSupported, match="made by synd"):
            desk.ask(call, [desk.at(name)], **more)

    def test_prefetch_by_the_folder_of_ids_finds_the_entity(self, desk, ids):
        """Below `@id` a name is the service's again."""
        job = desk.ask("prefetch", [desk.at(f"@id/{ids['P/d/a']}")], pin=False)

        assert job["kind"] == "prefetch"

    def test_prefetch_makes_a_job_of_the_entities_named(self, desk, ids):
        """All projects for the top; pinned first where asked."""
        job = desk.ask("prefetch", [desk.at("")], pin=True)

        fits(job, contract.Job)
        assert ("prefetch", "pending") == (job["kind"], job["state"])
        assert [ids["P"], ids["Q"]] == desk.parts.queue.get(job["id"]).arguments["entities"]
        assert [job] == desk.work.list(all=False)
        assert job == desk.work.get(job["id"][:5])
        assert "cancelled" == desk.parts.run(desk.work.cancel(job["id"]))["state"]
        assert [] == desk.work.list(all=False)
        assert 1 == len(desk.work.list(all=True))
        assert "pending" == desk.parts.run(desk.work.retry(job["id"]))["state"]
        assert 1 == desk.ask("status")["jobs"]["pending"]

    def test_prefetch_of_what_is_not_there_makes_no_job(self, desk):
        """The error is the answer."""
        with pytest.raises(SyndError):
            desk.ask("prefetch", [desk.at("P/nope")], pin=False)

        assert [] == desk.work.list(all=True)

    def test_job_is_shown_in_the_words_of_the_contract(self, desk):
        """Times that have not come are null."""
        job = desk.parts.queue.add("verify", "x", {"entities": []}, "bytes")
        desk.parts.queue.lease(["verify"], "me", 60.0)
        desk.parts.queue.progress(job.id, "me", 3, 9, "hashing")
        shown = desk.work.get(job.id)

        assert {"done": 3, "total": 9, "unit": "bytes", "note": "hashing"} == shown["progress"]
        assert shown["started_at"].endswith("Z")
        assert shown["finished_at"] is None
        assert JobState.RUNNING == shown["state"]

    def test_wait_on_a_read_only_mount_is_over_at_once(self, desk):
        """Nothing can be unsent; a path that is not there is told."""
        assert desk.ask("wait", None, 5.0)["settled"]
        assert desk.ask("wait", desk.at("P/d"), 5.0)["settled"]
        with pytest.raises(NotFound):
            desk.ask("wait", desk.at("P/nope"), 5.0)
