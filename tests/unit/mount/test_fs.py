"""The filesystem in terms of nodes, over a service in memory: no mount, no kernel."""

from __future__ import annotations

import gc
import json
import os
import random
import stat
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

from synd.errors import (
    Forbidden,
    IsDirectory,
    NotDirectory,
    NotFound,
    NotSupported,
    Offline,
    ReadOnly,
    Stale,
    SyndError,
)
from synd.ids import EntityId
from synd.model import Access, Kind
from synd.ranges import FileSlice
from synd.testing import FakeRemote, FakeStorage
from syndd.mount.fs import KNOWN_TTL_S
from syndd.mount.nodes import BY_ID, NodeKind, entity_node, folder_node, pack, unpack
from syndd.mount.ops import ROOT
from tests.support.mounts import eventually
from tests.support.parts import Parts, bytes_of, got, md5_of, noise

BIG = noise(3 << 20)
SMALL = noise(100_000, 1)


@pytest.fixture
def remote() -> FakeRemote:
    return FakeRemote()


@pytest.fixture
def storage(remote: FakeRemote) -> Iterator[FakeStorage]:
    with FakeStorage(remote) as found:
        yield found


@pytest.fixture
def ids(remote: FakeRemote) -> dict[str, EntityId]:
    return remote.tree(
        None,
        {
            "P": {
                "dir": {"a.txt": b"hello", "small": SMALL, "big": BIG, "empty": b""},
                "top.txt": b"t",
            }
        },
    )


@pytest.fixture
def build(tmp_path: Path, remote: FakeRemote) -> Iterator[Callable[..., Parts]]:
    made: list[Parts] = []

    def make(**settings: object) -> Parts:
        made.append(Parts(tmp_path, remote, **settings))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for parts in made:
        if not parts.closed:
            parts.close()


@pytest.fixture
def parts(build, storage, ids) -> Parts:
    return build()


class TestNames:
    def test_lookup_tells_kind_number_and_size(self, parts, ids):
        """st_ino is the entity's number; the node holds its version too."""
        folder, file = parts.node("P/dir"), parts.node("P/dir/a.txt")

        assert (ids["P/dir"], True) == (folder.ino, stat.S_ISDIR(folder.mode))
        assert (ids["P/dir/a.txt"], 5, True) == (file.ino, file.size, stat.S_ISREG(file.mode))
        assert entity_node(ids["P/dir/a.txt"], 1) == file.node
        assert 0o644 == stat.S_IMODE(file.mode)
        assert KNOWN_TTL_S == file.attr_ttl_s == file.entry_ttl_s

    @pytest.mark.parametrize("name", ["nope", "A.TXT", "a.txt@2", "@nothing", "a.txt/"])
    def test_lookup_of_what_is_not_there_is_not_found(self, parts, name):
        """Names are those of the service, to the letter."""
        folder = parts.node("P/dir").node
        with pytest.raises(NotFound):
            got(parts.fs.lookup(folder, name.encode()))

    @pytest.mark.parametrize(
        "name",
        [".DS_Store", "._a.txt", ".a.txt.swp", "a.txt~", ".nfs000001", "Thumbs.db", ".Trash-1000"],
    )
    def test_droppings_are_answered_without_a_request(self, parts, remote, name):
        """Desktops and editors look for them everywhere, again and again."""
        folder = parts.node("P/dir").node
        remote.calls.clear()
        with pytest.raises(NotFound):
            parts.fs.lookup(folder, name.encode())

        assert {} == remote.calls

    def test_listing_tells_names_kinds_and_sizes_that_are_known(self, parts, ids):
        """Entries of unknown size come without attributes, so that the kernel asks when somebody stats."""
        parts.node("P/dir/a.txt")
        eventually(
            lambda: parts.tree.entities.get(ids["P/dir/big"]).detailed or parts.row("P/dir/big")
        )
        known = {e.name.decode(): e for e in parts.entries("P/dir", plus=True)}

        assert {"a.txt", "small", "big", "empty"} == set(known)
        assert 5 == known["a.txt"].attr.size
        assert {e.ino for e in known.values()} == {ids[f"P/dir/{n}"] for n in known}
        assert all(e.attr is None for e in parts.entries("P/dir") if stat.S_ISREG(e.mode))

    def test_listing_goes_on_after_a_cookie_while_the_folder_changes(self, build, remote, storage):
        """No entry that was there all the time is missed or told twice."""
        project = remote.project("P")
        files = [remote.file(project, f"f{n:04}", b"") for n in range(2500)]
        parts = build()
        first: list[str] = []
        cookie = 0
        iterator = iter(got(parts.fs.readdir(_listed(parts, "P"), 0, plus=False)))
        for _ in range(1000):
            entry = next(iterator)
            first.append(entry.name.decode())
            cookie = entry.cookie
        remote.trash(files[10])
        remote.trash(files[2000])
        remote.file(project, "new", b"")
        parts.poll(project)
        rest = [
            e.name.decode() for e in got(parts.fs.readdir(folder_node(project), cookie, plus=False))
        ]

        names = first + rest
        assert len(names) == len(set(names))
        assert {f"f{n:04}" for n in range(2500)} - {"f2000"} | {"new"} == set(names)

    def test_file_is_no_folder_and_a_folder_is_no_file(self, parts):
        """As the kernel means it."""
        with pytest.raises(NotDirectory):
            got(parts.fs.opendir(parts.node("P/top.txt").node))
        for node in (parts.node("P/dir").node, pack(NodeKind.VERSIONS, parts.node("P/dir").ino)):
            with pytest.raises(IsDirectory):
                got(parts.fs.open(node, os.O_RDONLY))

    @pytest.mark.parametrize("path", ["P/dir/a.txt@1", "P/@info/top.txt.json"])
    def test_change_of_what_synd_makes_is_refused(self, parts, path):
        """Old versions and descriptions cannot be written, and the error says what to do."""
        node = parts.node(path).node
        with pytest.raises(ReadOnly) as told:
            parts.fs.open(node, os.O_WRONLY)
        assert told.value.hint

    def test_open_for_writing_leads_to_a_staging_node(self, parts):
        """The entity's own node is left to its readers; the name leads to the bytes of the edit."""
        before = parts.node("P/dir/a.txt").node
        with pytest.raises(Stale):
            got(parts.fs.open(before, os.O_RDWR))

        after = parts.node("P/dir/a.txt")
        assert NodeKind.STAGED == unpack(after.node).kind
        assert parts.node("P/dir/a.txt").ino == after.ino
        assert b"hello" == parts.read("P/dir/a.txt")


def _listed(parts: Parts, path: str) -> int:
    node = parts.node(path).node
    got(parts.fs.opendir(node))
    return node


class TestReading:
    @pytest.mark.parametrize(
        ("path", "data"),
        [
            ("P/dir/a.txt", b"hello"),
            ("P/dir/small", SMALL),
            ("P/dir/big", BIG),
            ("P/dir/empty", b""),
        ],
    )
    @pytest.mark.req("S2-43")
    def test_read_gives_the_bytes_and_leaves_them_in_the_cache(self, parts, storage, path, data):
        """Fetched once; from then on no request."""
        assert data == parts.read(path)
        eventually(lambda: not data or parts.cache.has(md5_of(data), len(data)))
        storage.requests.clear()
        parts.remote.calls.clear()

        assert data == parts.read(path)
        assert [] == storage.requests
        assert {} == parts.remote.calls

    def test_complete_object_is_opened_for_passthrough(self, parts):
        """The kernel gets the object itself; small ones are answered from memory."""
        parts.read("P/dir/big")
        eventually(lambda: parts.cache.has(md5_of(BIG)))
        opened = got(parts.fs.open(parts.node("P/dir/big").node, os.O_RDONLY))
        assert opened.backing is not None
        with open(opened.backing, "rb") as file:
            assert BIG == file.read()

        parts.read("P/dir/a.txt")
        eventually(lambda: parts.cache.has(md5_of(b"hello")))
        assert got(parts.fs.open(parts.node("P/dir/a.txt").node, os.O_RDONLY)).backing is None

    def test_open_when_wrong_bytes_went_out_before_is_not_read_from_their_pages(self, parts):
        """The notice that drops them may come later than the next open: that drops them by itself."""
        node = parts.node("P/dir/big").node
        row = parts.row("P/dir/big")
        assert got(parts.fs.open(node, os.O_RDONLY)).keep_cache
        parts.streams.mismatched(row.file())

        assert not got(parts.fs.open(node, os.O_RDONLY)).keep_cache

    def test_reads_of_one_file_by_many_handles_share_a_descriptor(self, parts):
        """And each ends by itself."""
        parts.read("P/dir/big")
        eventually(lambda: parts.cache.has(md5_of(BIG)))
        node = parts.node("P/dir/big").node
        pieces = [got(parts.fs.read(node, handle, 0, 4096)) for handle in range(5)]
        assert 1 == len({p.fd for p in pieces if isinstance(p, FileSlice)})
        for handle in range(4):
            parts.fs.release(node, handle)
        assert BIG[:10] == bytes_of(got(parts.fs.read(node, 4, 0, 10)))
        parts.fs.release(node, 4)

        assert 0 == parts.fs.open_files()

    @pytest.mark.parametrize(
        "path", ["P/dir/a.txt", "P/dir/big", "P/@info/top.txt.json", "P/top.txt@1"]
    )
    def test_thousand_opens_leave_no_descriptor_behind(self, parts, path):
        """However a file is served."""
        attr = parts.node(path)
        parts.read_node(attr.node, attr.size)
        eventually(lambda: not parts.cache.partials.open_partials())
        gc.collect()
        before = len(os.listdir("/proc/self/fd"))
        for handle in range(1000):
            with parts.opened(attr.node, handle):
                got(parts.fs.read(attr.node, handle, 0, 4096))

        # Fewer: something that was there before the test, and was not its own, went meanwhile.
        assert before >= len(os.listdir("/proc/self/fd"))
        assert 0 == parts.fs.open_files()

    def test_release_and_read_at_once_never_read_a_closed_descriptor(self, parts):
        """One program closes the file while another reads it: never an error, never other bytes."""
        parts.read("P/dir/big")
        eventually(lambda: parts.cache.has(md5_of(BIG)))
        node = parts.node("P/dir/big").node
        problems: list[object] = []

        def work(base: int) -> None:
            chosen = random.Random(base)
            for handle in range(base, base + 300):
                for _ in range(2):
                    offset = chosen.randrange(len(BIG) - 64)
                    try:
                        found = bytes_of(got(parts.fs.read(node, handle, offset, 64)))
                        if found != BIG[offset : offset + 64]:
                            problems.append("other bytes")
                    except (OSError, SyndError) as error:
                        problems.append(error)
                parts.fs.release(node, handle)

        threads = [threading.Thread(target=work, args=(n * 1000,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)

        assert [] == problems
        assert 0 == parts.fs.open_files()

    def test_open_that_was_given_up_closes_what_it_opened(self, parts, remote, ids):
        """An interrupted open that ends later leaks no descriptor."""
        parts.read("P/dir/big")
        eventually(lambda: parts.cache.has(md5_of(BIG)))
        remote.annotate(ids["P/dir/big"], k="v")
        parts.poll()
        node = parts.node("P/dir/big").node
        before = len(os.listdir("/proc/self/fd"))
        hold = remote.hold("entity")
        parts.call(hold.__enter__)
        waiting = parts.fs.open(node, os.O_RDONLY)
        assert isinstance(waiting, Future)
        waiting.cancel()
        parts.call(lambda: hold.__exit__(None, None, None))
        eventually(lambda: parts.tree.entities.get(ids["P/dir/big"]).current)

        eventually(lambda: len(os.listdir("/proc/self/fd")) <= before)

    def test_offline_read_of_what_is_not_here_fails_and_of_the_rest_does_not(self, parts, remote):
        """Cached files know no network."""
        parts.read("P/dir/a.txt")
        eventually(lambda: parts.cache.has(md5_of(b"hello")))
        parts.node("P/dir/big")
        remote.offline = True

        assert b"hello" == parts.read("P/dir/a.txt")
        with pytest.raises(Offline):
            parts.read("P/dir/big")
        remote.offline = False
        assert BIG == parts.read("P/dir/big")


class TestVersions:
    @pytest.fixture
    def three(self, parts, remote, ids) -> Parts:
        remote.new_version(ids["P/dir/a.txt"], b"second")
        remote.new_version(ids["P/dir/a.txt"], b"the third")
        return parts

    def test_every_version_is_a_file_by_both_names(self, three):
        """FILE@N, and DIR/@versions/FILE/N."""
        for number, data in ((1, b"hello"), (2, b"second"), (3, b"the third")):
            assert data == three.read(f"P/dir/a.txt@{number}")
            assert data == three.read(f"P/dir/@versions/a.txt/{number}")
        assert b"the third" == three.read("P/dir/a.txt")

    def test_folder_of_versions_lists_them(self, three):
        """Files of the folder; of each, its numbers."""
        assert ["a.txt", "big", "empty", "small"] == three.names("P/dir/@versions")
        assert ["1", "2", "3"] == three.names("P/dir/@versions/a.txt")
        assert [5, 6, 9] == [e.attr.size for e in three.entries("P/dir/@versions/a.txt")]

    @pytest.mark.parametrize("name", ["0", "01", "4", "x", "99999999999999999999", ""])
    def test_other_names_there_are_nothing(self, three, name):
        """Numbers as they are written, and only those that are there."""
        folder = three.node("P/dir/@versions/a.txt").node
        with pytest.raises(NotFound):
            got(three.fs.lookup(folder, name.encode()))

    def test_folders_and_strangers_have_none(self, three):
        """Neither by name nor by number."""
        for path in ("P/@versions/dir", "P/dir@1", "P/dir/nope@1"):
            with pytest.raises(NotFound):
                three.node(path)

    def test_new_version_makes_open_stale_and_old_handles_read_on(self, parts, remote, ids):
        """The kernel looks the name up again; who has the old content open reads it to its end."""
        old = parts.node("P/dir/big")
        got(parts.fs.open(old.node, os.O_RDONLY))
        assert BIG[:100] == bytes_of(got(parts.fs.read(old.node, 1, 0, 100)))
        new = noise(2 << 20, 9)
        remote.new_version(ids["P/dir/big"], new)
        parts.poll()

        with pytest.raises(Stale):
            got(parts.fs.open(old.node, os.O_RDONLY))
        assert BIG == parts.read_at(old.node, 1, 0, len(BIG))
        assert len(BIG) == got(parts.fs.getattr(old.node)).size
        parts.fs.release(old.node, 1)
        assert new == parts.read("P/dir/big")
        assert old.ino == parts.node("P/dir/big").ino
        assert old.node != parts.node("P/dir/big").node

    def test_old_content_whose_reading_begins_late_is_still_the_old_one(self, parts, remote, ids):
        """Opened before, read after: what the version of its node holds, also if a link came after."""
        old = parts.node("P/dir/small")
        got(parts.fs.open(old.node, os.O_RDONLY))
        remote.new_version(ids["P/dir/small"], b"x")
        remote._nodes[ids["P/dir/small"]].current.handle = remote.handle(
            None, external_url="https://example.invalid/x"
        )
        parts.poll()
        parts.tree.detailed(ids["P/dir/small"]).result(20)

        assert SMALL == parts.read_at(old.node, 1, 0, len(SMALL))
        parts.fs.release(old.node, 1)

    def test_old_version_is_shared_in_the_cache_with_its_twins(self, three, storage):
        """One copy per content, whatever names it."""
        three.read("P/dir/a.txt@1")
        eventually(lambda: three.cache.has(md5_of(b"hello")))
        asked = len(storage.requests)

        assert b"hello" == three.read("P/dir/@versions/a.txt/1")
        assert asked == len(storage.requests)


class TestById:
    def test_everything_under_the_top_is_a_link_to_its_one_place(self, parts, ids):
        """A folder may have one place only."""
        for path in ("P", "P/dir", "P/dir/a.txt"):
            attr = parts.node(f"@id/syn{ids[path]}")
            assert stat.S_ISLNK(attr.mode)
            target = got(parts.fs.readlink(attr.node))
            assert f"../{path}".encode() == target
            assert len(target) == attr.size

    def test_what_is_not_under_the_top_is_there_itself(self, build, remote, storage, ids):
        """Any entity by id, whether configured or not; what lies below a project through the project."""
        other = remote.tree(None, {"Other": {"d": {"f": b"far"}}})
        parts = build(projects=[ids["P"]])
        assert ["P"] == parts.names()
        base = f"@id/syn{other['Other']}"

        assert stat.S_ISDIR(parts.node(base).mode)
        assert ["d"] == parts.names(base)
        assert b"far" == parts.read(f"{base}/d/f")
        link = parts.node(f"@id/syn{other['Other/d/f']}")
        assert f"syn{other['Other']}/d/f".encode() == got(parts.fs.readlink(link.node))

    def test_version_by_id_is_that_version(self, parts, remote, ids):
        """syn123.1, as citations write it."""
        remote.new_version(ids["P/dir/a.txt"], b"second")

        assert b"hello" == parts.read(f"@id/syn{ids['P/dir/a.txt']}.1")

    @pytest.mark.parametrize(
        "name", ["syn", "5", "syn0", "synx", "syn1.0", "syn1.x", "x", "syn99999"]
    )
    def test_what_is_no_id_is_not_found(self, parts, name):
        """Nothing is asked for what cannot be one."""
        with pytest.raises(NotFound):
            parts.node(f"@id/{name}")

    def test_folder_of_ids_is_empty_to_look_at(self, parts):
        """Nobody lists all of Synapse."""
        assert [] == parts.names("@id")
        assert stat.S_ISDIR(got(parts.fs.getattr(BY_ID)).mode)
        assert {b"P"} == {e.name for e in parts.entries()}


class TestLinks:
    def target(self, parts: Parts, path: str) -> bytes:
        attr = parts.node(path)
        assert stat.S_ISLNK(attr.mode)
        return got(parts.fs.readlink(attr.node))

    def test_link_to_what_is_known_leads_there(self, parts, remote, ids):
        """Relative, so that it holds wherever the tree is mounted."""
        remote.link(ids["P/dir"], "l", ids["P/top.txt"])
        parts.entries("P")

        assert b"../../P/top.txt" == self.target(parts, "P/dir/l")

    def test_link_to_what_is_not_known_leads_through_its_id(self, parts, remote, ids):
        """There it is found."""
        far = remote.file(remote.project("Q"), "far", b"far")
        remote.link(ids["P/dir"], "l", far)

        assert f"../../@id/syn{far}".encode() == self.target(parts, "P/dir/l")

    def test_link_to_a_version_leads_to_that_version(self, parts, remote, ids):
        """Not to what came after it."""
        remote.link(ids["P/dir"], "l", ids["P/top.txt"], version=1)

        assert f"../../@id/syn{ids['P/top.txt']}.1".encode() == self.target(parts, "P/dir/l")

    def test_link_keeps_its_node_whatever_was_asked_of_it(self, parts, remote, ids):
        """Reading its target tells nothing new about it."""
        remote.link(ids["P/dir"], "l", ids["P/top.txt"])
        before = parts.node("P/dir/l").node
        self.target(parts, "P/dir/l")
        parts.told.take()
        parts.poll()

        assert before == parts.node("P/dir/l").node
        assert (set(), set()) == parts.told.take()


class TestOtherKinds:
    def test_external_link_without_a_size_is_a_shortcut(self, parts, remote, ids):
        """NAME.url, found by NAME as well; its size is that of its text."""
        remote.file(ids["P/dir"], "web", None, external_url="https://example.invalid/x")
        node = parts.node("P/dir").node
        got(parts.fs.opendir(node))
        eventually(lambda: got(parts.fs.lookup(node, b"web")).size)
        text = b"[InternetShortcut]\nURL=https://example.invalid/x\n"

        assert "web.url" in parts.names("P/dir")
        assert text == parts.read("P/dir/web.url") == parts.read("P/dir/web")
        assert len(text) == parts.node("P/dir/web.url").size

    def test_table_is_a_file_that_cannot_be_read(self, parts, remote, ids):
        """With the page to go to."""
        remote.other(ids["P/dir"], "t", Kind.TABLE)
        attr = parts.node("P/dir/t.csv")
        with pytest.raises(NotSupported) as told:
            got(parts.fs.open(attr.node, os.O_RDONLY))

        assert f"https://portal.invalid/Synapse:syn{attr.ino}" in told.value.hint

    @pytest.mark.parametrize(
        ("access", "word"),
        [
            (Access(can_download=False), "not download"),
            (Access(unmet_terms=True, can_download=False), "terms"),
        ],
        ids=["no download", "terms of use"],
    )
    def test_file_that_may_not_be_downloaded_says_what_to_do(
        self, parts, remote, ids, access, word
    ):
        """It is seen; opening tells why not, and where to ask."""
        remote.permit(ids["P/dir/a.txt"], access)
        attr = parts.node("P/dir/a.txt")
        with pytest.raises(Forbidden, match=word) as told:
            got(parts.fs.open(attr.node, os.O_RDONLY))

        assert f"Synapse:syn{ids['P/dir/a.txt']}" in told.value.hint

    def test_unknown_size_is_zero_and_not_to_be_believed(self, build, remote, storage, ids):
        """The kernel asks again; the size comes in meanwhile."""
        parts = build(size_wait_s=0.0)
        parts.entries("P/dir")
        attr = parts.node("P/dir/big")
        assert (0, 0.0, 0.0) == (attr.size, attr.attr_ttl_s, attr.entry_ttl_s)

        eventually(lambda: parts.node("P/dir/big").size == len(BIG))
        assert KNOWN_TTL_S == parts.node("P/dir/big").attr_ttl_s


class TestInfo:
    def test_info_is_json_about_every_entity(self, parts, remote, ids):
        """Its own values, annotations in JSON's types, access and provenance."""
        remote.annotate(ids["P/dir/a.txt"], tissue="liver")
        remote.set_activity(ids["P/dir/a.txt"], {"name": "made by hand"})
        found = json.loads(parts.read("P/dir/@info/a.txt.json"))

        assert f"syn{ids['P/dir/a.txt']}" == found["id"]
        assert {"tissue": ["liver"]} == found["annotations"]
        assert md5_of(b"hello") == found["file"]["md5"]
        assert {"name": "made by hand"} == found["provenance"]
        assert found["access"]["can_download"]
        assert ["a.txt.json", "big.json", "empty.json", "small.json"] == parts.names("P/dir/@info")
        assert "P" == json.loads(parts.read("@info/P.json"))["name"]

    def test_info_of_nothing_is_not_found(self, parts):
        """Neither without its ending nor of strangers."""
        for name in ("a.txt", "nope.json"):
            with pytest.raises(NotFound):
                parts.node(f"P/dir/@info/{name}")

    def test_info_follows_the_entity(self, parts, remote, ids):
        """What was changed over there is shown here after the next look at the folder."""
        parts.read("P/dir/@info/a.txt.json")
        remote.annotate(ids["P/dir/a.txt"], tissue="heart")
        parts.poll()

        assert ["heart"] == json.loads(parts.read("P/dir/@info/a.txt.json"))["annotations"][
            "tissue"
        ]


class TestAttributes:
    def xattrs(self, parts: Parts, path: str) -> dict[str, str]:
        node = parts.node(path).node
        names = got(parts.fs.listxattr(node))
        return {
            n.decode().removeprefix("user.synapse."): got(parts.fs.getxattr(node, n)).decode()
            for n in names
        }

    def test_xattrs_tell_what_a_file_is_and_where_its_bytes_are(self, parts, remote, ids):
        """State follows what is here."""
        remote.annotate(ids["P/dir/big"], tissue="liver")
        found = self.xattrs(parts, "P/dir/big")
        assert f"syn{ids['P/dir/big']}" == found["id"]
        assert ("1", md5_of(BIG), "remote", "liver") == (
            found["version"], found["md5"], found["state"], found["annotations.tissue"],
        )  # fmt: skip
        assert found["etag"]

        parts.read("P/dir/big")
        eventually(lambda: self.xattrs(parts, "P/dir/big")["state"] == "cached")

    def test_xattrs_of_versions_and_folders(self, parts, ids):
        """A version its own; a folder its id; synd's own folders none."""
        assert "1" == self.xattrs(parts, "P/dir/a.txt@1")["version"]
        assert f"syn{ids['P/dir']}" == self.xattrs(parts, "P/dir")["id"]
        assert {} == self.xattrs(parts, "P/dir/@versions")
        assert [] == got(parts.fs.listxattr(ROOT))

    def test_foreign_attributes_are_not_there(self, parts, remote):
        """Asked for by every `ls -l`, and answered without a request."""
        node = parts.node("P/top.txt").node
        remote.calls.clear()
        for name in (b"security.capability", b"system.posix_acl_access", b"user.other"):
            with pytest.raises(NotFound):
                parts.fs.getxattr(node, name)

        assert {} == remote.calls

    def test_statfs_is_the_disk_of_the_cache(self, parts, tmp_path):
        """What is free there can be read without evicting."""
        disk = os.statvfs(tmp_path)

        told = parts.fs.statfs()
        assert (disk.f_blocks, disk.f_files) == (told.blocks, told.files)
        assert (told.files_free > 0) == (disk.f_favail > 0)

    def test_getattr_says_what_lookup_said(self, parts):
        """Whatever the node is."""
        for path in (
            "P",
            "P/dir",
            "P/dir/a.txt",
            "P/dir/a.txt@1",
            "P/dir/@versions",
            "P/dir/@info",
        ):
            attr = parts.node(path)
            again = got(parts.fs.getattr(attr.node))
            assert (attr.node, attr.mode, attr.size) == (again.node, again.mode, again.size)


class TestNotices:
    """The kernel believes for ten minutes: every change is told, and nothing else is."""

    @pytest.fixture
    def seen(self, parts, ids) -> Parts:
        for path in ("P", "P/dir", "P/dir/a.txt", "P/dir/big", "P/top.txt"):
            parts.node(path)
        parts.entries("P")
        parts.entries("P/dir")
        eventually(lambda: all(r.detailed for r in parts.tree.entities.children(ids["P/dir"])))
        eventually(
            lambda: all(
                r.kind != "file" or r.detailed for r in parts.tree.entities.children(ids["P"])
            )
        )
        parts.told.take()
        return parts

    def test_nothing_changed_tells_nothing(self, seen):
        """Polls of a quiet tree cost the kernel nothing."""
        seen.poll()

        assert (set(), set()) == seen.told.take()

    def test_each_kind_of_change_is_told_by_name_and_folder(self, seen, remote, ids):
        """The name, so that it is looked up again; the folder, so that it is listed again."""
        folder = folder_node(ids["P/dir"])
        for change, names in (
            (lambda: remote.file(ids["P/dir"], "new", b"n"), {b"new"}),
            (lambda: remote.rename(ids["P/dir/a.txt"], "b.txt"), {b"a.txt", b"b.txt"}),
            (lambda: remote.new_version(ids["P/dir/big"], b"other"), {b"big"}),
            (lambda: remote.trash(ids["P/dir/empty"]), {b"empty"}),
        ):
            change()
            seen.poll()
            told_names, told_nodes = seen.told.take()
            assert {(folder, name) for name in names} == told_names
            assert (folder, True) in told_nodes

    def test_annotation_tells_the_node_alone_and_keeps_its_pages(self, seen, remote, ids):
        """The bytes are the same."""
        remote.annotate(ids["P/dir/a.txt"], k="v")
        seen.poll()

        assert (set(), {(entity_node(ids["P/dir/a.txt"], 1), False)}) == seen.told.take()

    def test_move_is_told_in_both_folders(self, seen, remote, ids):
        """Whichever of them is polled first."""
        remote.move(ids["P/top.txt"], ids["P/dir"])
        seen.poll(ids["P/dir"], ids["P"])

        names, _ = seen.told.take()
        assert {
            (folder_node(ids["P"]), b"top.txt"),
            (folder_node(ids["P/dir"]), b"top.txt"),
        } == names

    def test_other_bytes_under_the_same_version_lose_their_pages(self, seen, remote, ids):
        """The service allows it; the page cache must not."""
        remote.swap_handle(ids["P/dir/a.txt"], b"other")
        seen.poll()
        seen.told.take()
        assert b"other" == seen.read("P/dir/a.txt")

        assert (entity_node(ids["P/dir/a.txt"], 1), True) in seen.told.take()[1]

    def test_folders_of_versions_and_info_are_listed_again(self, seen, remote, ids):
        """The kernel keeps their listings as well."""
        seen.names("P/dir/@versions")
        seen.names("P/dir/@info")
        seen.names("P/dir/@versions/a.txt")
        remote.new_version(ids["P/dir/a.txt"], b"second")
        seen.poll()

        _, nodes = seen.told.take()
        assert {
            (pack(NodeKind.VERSIONS, ids["P/dir"]), True),
            (pack(NodeKind.INFO, ids["P/dir"]), True),
            (pack(NodeKind.FILE_VERSIONS, ids["P/dir/a.txt"]), True),
        } <= nodes
        assert ["1", "2"] == seen.names("P/dir/@versions/a.txt")

    def test_content_seen_wrong_loses_its_pages(self, seen, ids):
        """Bytes that the kernel may hold of it go."""
        seen.fs.content_changed(seen.row("P/dir/a.txt").file())

        assert (set(), {(entity_node(ids["P/dir/a.txt"], 1), True)}) == seen.told.take()


class TestRestart:
    PATHS = (
        "P", "P/dir", "P/dir/a.txt", "P/dir/a.txt@1", "P/dir/@versions/a.txt/1", "P/dir/@info/a.txt.json",
        "P/dir/@versions", "@id",
    )  # fmt: skip

    def test_node_numbers_mean_the_same_after_a_restart(self, build, remote, storage, ids):
        """New objects over the same store answer what the kernel still asks by number."""
        parts = build()
        before = {path: parts.node(path) for path in self.PATHS}
        parts.close()
        parts = build()

        for path, attr in before.items():
            again = got(parts.fs.getattr(attr.node))
            assert (attr.node, attr.mode, attr.size) == (again.node, again.mode, again.size)
            assert attr.node == parts.node(path).node

    def test_open_file_is_read_on_after_a_restart(self, build, remote, storage, ids):
        """Handles need no table of ours: a node says what to read."""
        parts = build()
        node = parts.node("P/dir/big").node
        with parts.opened(node, 7):
            assert BIG[:4096] == bytes_of(got(parts.fs.read(node, 7, 0, 4096)))
        parts.close()
        parts = build()

        assert BIG == parts.read_at(node, 7, 0, len(BIG))
        parts.fs.release(node, 7)
        assert 0 == parts.fs.open_files()

    def test_restart_while_offline_shows_what_was_seen(self, build, remote, storage, ids):
        """Names, sizes and cached bytes, without a request that succeeds."""
        parts = build()
        parts.entries("P/dir")
        assert SMALL == parts.read("P/dir/small")
        eventually(lambda: parts.cache.has(md5_of(SMALL)))
        parts.close()
        remote.offline = True
        parts = build()

        assert ["a.txt", "big", "empty", "small"] == parts.names("P/dir")
        assert SMALL == parts.read("P/dir/small")


def test_nodes_pack_and_unpack_to_the_same():
    """Kind, version and entity in one number; the special ones are no entity."""
    for kind in NodeKind:
        for entity in (0, 1, 1 << 39, (1 << 40) - 1):
            for version in (0, 1, (1 << 20) - 1):
                assert (kind, entity, version) == unpack(pack(kind, entity, version))
    with pytest.raises(ValueError):
        unpack(15 << 60)
    assert entity_node(5, 2) == pack(NodeKind.ENTITY, 5, 2)
    assert (ROOT, pack(NodeKind.ENTITY, 5)) == (folder_node(0), folder_node(5))
