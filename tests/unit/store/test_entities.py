"""Listings, bundles, views and versions as rows, and what each of them changed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from synd.errors import NotFound
from synd.ids import EntityId, FileHandleId, Md5, Version
from synd.model import Access, Entity, FileVersion, Header, Kind, LinkTarget, Store, VersionInfo
from synd.store.entities import TOP, UNKNOWN_PARENT, Change

P = EntityId(100)
Q = EntityId(200)
A, B, C = EntityId(101), EntityId(102), EntityId(103)
MD5 = Md5("a" * 32)
OTHER_MD5 = Md5("b" * 32)


def header(entity, name, *, kind=Kind.FILE, version=1, modified=10) -> Header:
    return Header(EntityId(entity), name, kind, Version(version), 1, modified, "ann")


def bundle(
    entity, name, *, parent=P, kind=Kind.FILE, version=1, modified=10, md5=MD5, size=7,
    url=None, link=None, annotations=None, access=None, file=True,
) -> Entity:  # fmt: skip
    number = Version(version)
    bytes_ = FileVersion(
        EntityId(entity), number, FileHandleId(900 + version), md5, size, name="orig.bin",
        content_type="text/plain", store=Store.EXTERNAL if url else Store.S3, external_url=url,
    )  # fmt: skip
    return Entity(
        id=EntityId(entity), name=name, kind=kind, parent=parent, etag="e1",
        version=number if kind is Kind.FILE else None, created_on_ns=1, modified_on_ns=modified,
        file=bytes_ if kind is Kind.FILE and file else None, link=link,
        annotations=annotations or {}, access=access or Access(),
    )  # fmt: skip


def gone(entity, name, parent=P) -> Change:
    return Change(EntityId(entity), parent, name, gone=True, moved_on=False)


def new(entity, name, parent=P) -> Change:
    return Change(EntityId(entity), parent, name, gone=False, moved_on=False, appeared=True)


def same_name(entity, name, *, moved_on) -> Change:
    return Change(EntityId(entity), P, name, gone=False, moved_on=moved_on)


LISTINGS = {
    "nothing new": ([header(A, "a")], [header(A, "a")], []),
    "added": ([header(A, "a")], [header(A, "a"), header(B, "b")], [new(B, b"b")]),
    "gone": ([header(A, "a"), header(B, "b")], [header(A, "a")], [gone(B, b"b")]),
    "all gone": ([header(A, "a")], [], [gone(A, b"a")]),
    "renamed": ([header(A, "a")], [header(A, "b")], [gone(A, b"a"), new(A, b"b")]),
    "two change names": (
        [header(A, "a"), header(B, "b")],
        [header(A, "b"), header(B, "a")],
        [gone(A, b"a"), new(A, b"b"), gone(B, b"b"), new(B, b"a")],
    ),
    "a name passes to another": (
        [header(A, "a")],
        [header(B, "a")],
        [gone(A, b"a"), new(B, b"a")],
    ),
    "new version": (
        [header(A, "a")],
        [header(A, "a", version=2, modified=20)],
        [same_name(A, b"a", moved_on=True)],
    ),
    "metadata only": (
        [header(A, "a")],
        [header(A, "a", modified=20)],
        [same_name(A, b"a", moved_on=False)],
    ),
    "told twice": ([header(A, "a")], [header(A, "a"), header(A, "a")], []),
    "renamed with a new version": (
        [header(A, "a")],
        [header(A, "b", version=2, modified=20)],
        [gone(A, b"a"), Change(A, P, b"b", gone=False, moved_on=True, appeared=True)],
    ),
    "clash by kind": (
        [],
        [header(A, "t", kind=Kind.TABLE), header(B, "t.csv")],
        [new(A, b"t.csv"), new(B, b"t %syn102.csv")],
    ),
    "clash is over": (
        [header(A, "t", kind=Kind.TABLE), header(B, "t.csv")],
        [header(B, "t.csv")],
        [gone(A, b"t.csv"), gone(B, b"t %syn102.csv"), new(B, b"t.csv")],
    ),
    "dots": ([], [header(A, "."), header(B, "..")], [new(A, b"%2E"), new(B, b"%2E%2E")]),
    "foreign signs": ([], [header(A, "a@3/b%")], [new(A, b"a%403%2Fb%25")]),
}


@pytest.mark.parametrize(("before", "after", "changes"), LISTINGS.values(), ids=LISTINGS)
def test_listing_when_applied_tells_what_changed(entities, before, after, changes):
    """What the kernel may still believe is told; what it cannot have seen is not."""
    entities.apply_listing(P, before)
    told = entities.apply_listing(P, after)

    assert sorted(map(tuple, changes)) == sorted(map(tuple, told))
    assert {h.id for h in after} == {r.id for r in entities.children(P)}
    assert entities.count_children(P) == len({h.id for h in after})
    assert [] == entities.apply_listing(P, after)


class TestListing:
    def test_entity_moved_in_leaves_its_old_folder_with_notice(self, entities):
        """The old folder will not miss it: whoever learns first must tell that the old name is gone."""
        entities.apply_listing(P, [header(A, "a")])
        told = entities.apply_listing(Q, [header(A, "x", modified=20)])

        assert [gone(A, b"a", P), new(A, b"x", Q)] == told
        assert entities.child(P, b"a") is None
        assert A == entities.child(Q, b"x").id
        assert [] == entities.apply_listing(P, [])

    def test_entity_gone_from_its_folder_is_still_known_by_id(self, entities):
        """Open files go on."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_listing(P, [])

        assert entities.child(P, b"a") is None
        assert "a" == entities.get(A).name
        assert not entities.is_listed(A)

    def test_names_of_256_letters_are_shortened_and_told_apart(self, entities):
        """The service allows one letter more than a file system, and only the case of none."""
        long = "x" * 252 + ".bam"
        entities.apply_listing(P, [header(A, long), header(B, "y" * 256), header(C, "z" * 255)])
        names = [r.file_name for r in entities.children(P)]

        assert all(len(name) <= 255 for name in names)
        assert names[0].endswith(b" %syn101.bam")
        assert names[1].endswith(b" %syn102")
        assert b"z" * 255 == names[2]
        assert long == entities.child(P, names[0]).name

    def test_new_version_empties_what_a_bundle_told(self, entities):
        """Size and md5 belong to a version; a content once seen wrong is not the new one."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_entity(bundle(A, "a"))
        entities.set_corrupt(A, "wrong")
        entities.apply_listing(P, [header(A, "a", version=2, modified=20)])

        row = entities.get(A)
        assert (None, None, None, None) == (row.size, row.md5, row.handle, row.corrupt)
        assert not row.detailed

    def test_metadata_change_keeps_size_and_md5_but_not_for_certain(self, entities):
        """A version's bytes do not change; the file handle is compared before it is used."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_entity(bundle(A, "a"))
        entities.apply_listing(P, [header(A, "a", modified=20)])

        row = entities.get(A)
        assert (7, MD5) == (row.size, row.md5)
        assert row.detailed
        assert not row.current

    def test_folders_have_no_version_whoever_tells_of_them(self, entities):
        """Listings say 1 of a folder or a link, bundles say nothing: the row must not waver."""
        for kind in (Kind.FOLDER, Kind.LINK):
            entities.apply_listing(P, [header(A, "a", kind=kind)])
            change = entities.apply_entity(bundle(A, "a", kind=kind))

            assert not change.moved_on
            assert 0 == entities.get(A).version
            assert [] == entities.apply_listing(P, [header(A, "a", kind=kind)])
            assert entities.get(A).current

    def test_pages_go_on_after_an_id(self, entities):
        """A reader of a large folder takes part after part, whatever changes meanwhile."""
        entities.apply_listing(P, [header(i, f"n{i}") for i in range(1, 30)])

        assert [10, 11, 12] == [r.id for r in entities.children(P, 9, 3)]
        assert [(28, b"n28"), (29, b"n29")] == [r[:2] for r in entities.names(P, 27, 100)]
        entities.apply_listing(P, [header(i, f"n{i}") for i in range(5, 30)])
        assert [10, 11, 12] == [r.id for r in entities.children(P, 9, 3)]


class TestBundles:
    def test_bundle_tells_everything(self, entities):
        """Handle, md5, size, names and types of the present bytes."""
        entities.apply_listing(P, [header(A, "a")])
        change = entities.apply_entity(bundle(A, "a", annotations={"k": ("LONG", ("1", "2"))}))

        row = entities.get(A)
        assert same_name(A, b"a", moved_on=False) == change
        assert row.current
        assert (7, MD5, 901, "e1") == (row.size, row.md5, row.handle, row.etag)
        assert row.file() == bundle(A, "a").file
        assert MD5 == row.key
        assert {"k": ("LONG", ("1", "2"))} == entities.annotations(row)

    def test_bundle_of_what_no_listing_told_stays_unlisted(self, entities):
        """Known by @id does not mean shown by a folder."""
        entities.apply_entity(bundle(A, "a"))

        assert "a" == entities.get(A).name
        assert entities.child(P, b"a") is None
        assert [] == entities.children(P)

    def test_bundle_whose_name_clashes_with_a_listed_one_does_not_take_it(self, entities):
        """The listing decides; until then both can be reached, by the names they had."""
        entities.apply_listing(P, [header(A, "a"), header(B, "b")])
        entities.apply_entity(bundle(B, "a", modified=20))

        assert A == entities.child(P, b"a").id
        assert B == entities.child(P, b"b").id

    def test_unlisted_bundle_with_the_name_of_a_listed_one_is_recorded(self, entities):
        """A deleted and a new entity of one name."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_entity(bundle(B, "a"))

        assert A == entities.child(P, b"a").id
        assert b"a" == entities.get(B).file_name

    def test_bundle_without_bytes_to_see_has_no_key(self, entities):
        """You may see it, but not download it."""
        entities.apply_entity(bundle(A, "a", file=False, access=Access(unmet_terms=True)))

        row = entities.get(A)
        assert row.key is None
        assert row.size is None
        assert 1 == row.unmet_terms

    def test_bundle_without_md5_is_named_by_its_handle(self, entities):
        """Some stores never computed one."""
        entities.apply_entity(bundle(A, "a", md5=None))

        assert "h901" == entities.get(A).key

    def test_link_that_tells_no_size_is_named_url_and_stays_so(self, entities):
        """Its name does not change with every listing; a new version may change it."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_entity(bundle(A, "a", url="https://x.invalid/a", size=None, md5=None))
        assert b"a.url" == entities.get(A).file_name

        assert [] == entities.apply_listing(P, [header(A, "a")])
        assert [] == entities.apply_listing(P, [header(A, "a")])
        told = entities.apply_listing(P, [header(A, "a", modified=20)])
        assert [same_name(A, b"a.url", moved_on=False)] == told
        entities.apply_listing(P, [header(A, "a", version=2, modified=30)])
        assert b"a" == entities.get(A).file_name

    def test_link_entity_knows_its_target(self, entities):
        """With the version, where one is named."""
        entities.apply_entity(bundle(A, "l", kind=Kind.LINK, link=LinkTarget(B, Version(3))))

        assert (B, 3) == (entities.get(A).target, entities.get(A).target_version)

    def test_annotations_are_unknown_after_a_change(self, entities):
        """Stale ones are not shown as true."""
        entities.apply_listing(P, [header(A, "a")])
        assert entities.annotations(entities.get(A)) is None
        entities.apply_entity(bundle(A, "a", annotations={"k": ("STRING", ("v",))}))
        entities.apply_listing(P, [header(A, "a", modified=20)])

        assert entities.annotations(entities.get(A)) is None

    def test_bundles_in_one_batch_may_exchange_names(self, entities):
        """Renamed both ways between two listings."""
        entities.apply_listing(P, [header(A, "a"), header(B, "b")])
        entities.apply_entities([bundle(A, "b", modified=20), bundle(B, "a", modified=21)])
        assert {A, B} == {r.id for r in entities.children(P)}

        entities.apply_listing(P, [header(A, "b", modified=20), header(B, "a", modified=21)])
        assert (B, A) == (entities.child(P, b"a").id, entities.child(P, b"b").id)

    def test_forget_takes_the_name_away(self, entities):
        """What the service shows no more leaves its folder; what is unknown leaves nothing."""
        entities.apply_listing(P, [header(A, "a")])

        assert gone(A, b"a") == entities.forget(A)
        assert entities.child(P, b"a") is None
        assert entities.forget(EntityId(999)) is None


VIEW_ROWS = {
    "as listed": ((A, 1, 10, "e2", 55, MD5, 9, "f"), True),
    "older version": ((A, 0, 10, "e2", 55, MD5, 9, "f"), False),
    "newer version": ((A, 2, 10, "e2", 55, MD5, 9, "f"), False),
    "modified since": ((A, 1, 9, "e2", 55, MD5, 9, "f"), False),
    "without md5": ((A, 1, 10, "e2", 55, None, 9, "f"), False),
    "without size": ((A, 1, 10, "e2", 55, MD5, None, "f"), False),
}


@pytest.mark.parametrize(("row", "used"), VIEW_ROWS.values(), ids=VIEW_ROWS)
@pytest.mark.parametrize("first", ["view", "listing"])
def test_view_row_is_used_only_when_it_tells_of_the_listed_state(entities, row, used, first):
    """A view lags behind; whichever comes first, only equal version and time make it true."""
    if first == "view":
        entities.apply_view_rows([row])
    entities.apply_listing(P, [header(A, "a")])
    if first == "listing":
        entities.apply_view_rows([row])
        entities.use_view_rows([P])

    found = entities.get(A)
    assert used == found.current
    assert ((9, MD5, 55) if used else (None, None, None)) == (found.size, found.md5, found.handle)
    assert ([] if used else [A]) == entities.undetailed(P)


class TestAsking:
    def test_undetailed_are_files_and_links_without_details(self, entities):
        """Folders and tables have no size to ask for."""
        kinds = (Kind.FILE, Kind.FOLDER, Kind.TABLE, Kind.LINK, Kind.RECORD_SET)
        entities.apply_listing(P, [header(i, f"n{i}", kind=k) for i, k in enumerate(kinds, 1)])
        assert [1, 4, 5] == entities.undetailed(P)

        entities.apply_entity(bundle(1, "n1"))
        assert [4, 5] == entities.undetailed(P)

    def test_get_of_the_unknown_is_not_found(self, entities):
        """With the id in our spelling."""
        with pytest.raises(NotFound, match="syn77"):
            entities.get(77)

    def test_descendants_come_parents_first(self, entities):
        """All known below, each once, itself included."""
        entities.apply_listing(TOP, [header(P, "P", kind=Kind.PROJECT)])
        entities.apply_listing(P, [header(Q, "q", kind=Kind.FOLDER), header(A, "a")])
        entities.apply_listing(Q, [header(B, "b")])

        assert [P, A, Q, B] == [r.id for r in entities.descendants(P)]
        assert [A] == [r.id for r in entities.descendants(A)]
        assert [] == list(entities.descendants(999))

    def test_path_of_leads_through_the_top_or_through_id(self, entities):
        """One path each: by the project's name if that is at the top, else by @id."""
        entities.apply_listing(TOP, [header(P, "P", kind=Kind.PROJECT)])
        entities.apply_listing(P, [header(Q, "q", kind=Kind.FOLDER)])
        entities.apply_listing(Q, [header(A, "a")])
        entities.apply_entity(bundle(300, "away", parent=None, kind=Kind.PROJECT))
        entities.apply_listing(EntityId(300), [header(B, "b")])

        assert [] == entities.path_of(TOP)
        assert [b"P", b"q", b"a"] == entities.path_of(A)
        assert [b"@id", b"syn300", b"b"] == entities.path_of(B)
        assert [b"@id", b"syn300"] == entities.path_of(300)
        assert entities.path_of(999) is None

    def test_path_of_is_unknown_while_a_part_of_the_way_is(self, entities):
        """An entity reached by id whose folders nobody asked for."""
        entities.apply_entity(bundle(A, "a", parent=EntityId(555)))
        orphan = replace(bundle(B, "b"), parent=None)
        entities.apply_entity(orphan)

        assert entities.path_of(A) is None
        assert UNKNOWN_PARENT == entities.get(B).parent
        assert entities.path_of(B) is None

    def test_project_of_goes_up_as_far_as_it_knows(self, entities):
        """None when the way is not known."""
        entities.apply_listing(TOP, [header(P, "P", kind=Kind.PROJECT)])
        entities.apply_listing(P, [header(Q, "q", kind=Kind.FOLDER)])
        entities.apply_listing(Q, [header(A, "a")])
        entities.apply_entity(bundle(B, "b", parent=EntityId(555)))

        assert [P, P, P, None] == [entities.project_of(e) for e in (A, Q, P, B)]


class TestVersions:
    @staticmethod
    def info(number, **more) -> VersionInfo:
        return VersionInfo(
            A, Version(number), str(number), "", number, "ann", 5, MD5, FileHandleId(number), False
        )

    def test_versions_are_newest_first_and_replaced_as_a_whole(self, entities):
        """A version deleted over there is gone here."""
        entities.apply_listing(P, [header(A, "a", version=3)])
        row = entities.get(A)
        assert not entities.versions_listed(row)
        entities.apply_versions(row, [self.info(n) for n in (1, 2, 3)])
        assert [3, 2, 1] == [v.number for v in entities.versions(A)]
        assert [True, False, False] == [v.is_latest for v in entities.versions(A)]

        entities.apply_versions(row, [self.info(n) for n in (3, 1)])
        assert [3, 1] == [v.number for v in entities.versions(A)]
        assert entities.version(A, 2) is None
        assert 1 == entities.version(A, 1).number

    def test_versions_count_as_listed_until_the_entity_changes(self, entities):
        """A new version makes the listing incomplete; its rows stay for old handles."""
        entities.apply_listing(P, [header(A, "a")])
        entities.apply_versions(entities.get(A), [self.info(1)])
        assert entities.versions_listed(entities.get(A))

        entities.apply_listing(P, [header(A, "a", version=2, modified=20)])
        assert not entities.versions_listed(entities.get(A))
        assert [1] == [v.number for v in entities.versions(A)]


class TestOwnChanges:
    """What we changed ourselves, against answers to questions from before."""

    @pytest.fixture
    def put(self, store, entities):
        def work(entity, **kwargs):
            with store.write() as tx:
                return entities.put(tx, entity, **kwargs)

        return work

    @pytest.fixture
    def drop(self, store, entities):
        def work(entity):
            with store.write() as tx:
                return entities.drop(tx, entity)

        return work

    def names(self, entities) -> list[bytes]:
        return sorted(row.file_name for row in entities.children(P))

    def test_put_lists_an_entity(self, entities, put):
        """With all its details, so that nothing needs to be asked."""
        assert [new(A, b"a")] == put(bundle(A, "a"))
        row = entities.find(A)
        assert (True, [b"a"], True) == (entities.is_listed(A), self.names(entities), row.current)

    def test_put_over_an_older_listing_stays(self, entities, put, drop):
        """Made, renamed, moved in and deleted after the listing was asked for."""
        entities.apply_listing(P, [header(A, "a"), header(B, "b")])
        entities.apply_listing(Q, [header(C, "c")])
        mark = entities.mark()
        put(bundle(104, "new"))
        put(bundle(A, "renamed", modified=20))
        put(bundle(C, "c", modified=20))
        drop(B)
        entities.apply_listing(P, [header(A, "a"), header(B, "b")], mark)
        entities.apply_listing(Q, [header(C, "c")], mark)

        assert [b"c", b"new", b"renamed"] == self.names(entities)
        assert [] == list(entities.children(Q))

    def test_later_listing_has_the_last_word(self, entities, put, drop):
        """What others did afterwards shows."""
        put(bundle(A, "a"))
        put(bundle(B, "b"))
        drop(B)
        entities.apply_listing(P, [header(B, "b")], entities.mark())

        assert [b"b"] == self.names(entities)

    def test_name_in_an_older_listing_gives_way(self, entities, put):
        """Somebody else's had it, says the old listing; ours has it now."""
        mark = entities.mark()
        put(bundle(A, "a"))
        entities.apply_listing(P, [header(B, "a")], mark)

        assert [b"a", b"a %syn102"] == self.names(entities)

    def test_put_takes_the_name_from_what_we_knew(self, entities, put):
        """The service lets two have no name; what had it is somewhere else by now."""
        entities.apply_listing(P, [header(B, "a")])

        assert gone(B, b"a") in put(bundle(A, "a"))
        assert [b"a"] == self.names(entities)

    def test_older_bundle_changes_nothing(self, entities, put):
        """It was asked for before, and came late."""
        put(bundle(A, "a", version=2, modified=20))
        entities.apply_entity(bundle(A, "old", version=1, modified=10))

        row = entities.get(A)
        assert ("a", 2) == (row.name, row.version)

    def test_fresh_folder_counts_as_listed(self, entities, folders, put):
        """Nobody else can have put anything into it."""
        put(bundle(A, "a", kind=Kind.FOLDER), fresh=True)
        put(bundle(B, "b", kind=Kind.FOLDER))

        assert (True, False) == (folders.is_listed(A), folders.is_listed(B))

    def test_drop_of_what_is_not_known_is_nothing(self, drop):
        """A row that was never listed."""
        assert [] == drop(EntityId(999))
