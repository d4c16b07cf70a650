"""The tree as a user sees it: local changes laid over what the service told."""

import pytest

from synd.errors import Exists, NotEmpty, NotFound, ReadOnly, UsageError
from synd.ids import EntityId
from synd.mirror.overlay import EXCHANGE, NOREPLACE, Overlay, Seen
from synd.model import Header, Kind
from synd.store.connect import Store
from synd.store.entities import TOP, Entities
from synd.store.local import FIRST, Sending
from synd.testing import FakeClock

PROJECT, FOLDER, FILE, OTHER, INNER = map(EntityId, (10, 11, 12, 13, 14))


def header(entity: int, name: str, kind: Kind, version: int | None = None) -> Header:
    return Header(EntityId(entity), name, kind, version, 5, 5)  # type: ignore[arg-type]


@pytest.fixture
def overlay(tmp_path):
    """project/{folder/{inner.txt}, a.txt, b.txt}, as the service told it."""
    store = Store(tmp_path / "state.db")
    entities = Entities(store)
    entities.apply_listing(TOP, [header(PROJECT, "project", Kind.PROJECT)])
    entities.apply_listing(
        PROJECT,
        [
            header(FOLDER, "folder", Kind.FOLDER),
            header(FILE, "a.txt", Kind.FILE, 3),
            header(OTHER, "b.txt", Kind.FILE, 1),
        ],
    )
    entities.apply_listing(FOLDER, [header(INNER, "inner.txt", Kind.FILE, 1)])
    yield Overlay(store, entities, clock=FakeClock())
    store.close()


def make(overlay: Overlay, name: bytes, parent: int = PROJECT, edit: int = 0) -> Seen:
    local, _ = overlay.create_file(parent, name, mode=0o644, uid=0, gid=0)
    if edit:
        with overlay.change() as tx:
            overlay.locals.update(tx, local.id, edit=edit, size=5)
            overlay.queue(tx, overlay.locals.get(local.id, tx))
    return Seen(overlay.locals.get(local.id), None)


def named(overlay: Overlay, name: bytes, parent: int = PROJECT) -> Seen:
    found = overlay.known_child(parent, name)
    assert found is not None
    return found


class TestMaking:
    def test_create_when_the_name_is_free_is_seen_at_once(self, overlay):
        """A new file has a key of its own, above every entity number."""
        made = make(overlay, b"new.txt")

        assert made.key == named(overlay, b"new.txt").key
        assert made.key >= FIRST

    @pytest.mark.parametrize("name", [b"a.txt", b"folder"])
    def test_create_when_the_service_has_the_name_raises(self, overlay, name):
        """A name that the service told is taken."""
        with pytest.raises(Exists):
            make(overlay, name)

    def test_create_at_the_top_is_refused(self, overlay):
        """Only projects lie there."""
        with pytest.raises(ReadOnly):
            make(overlay, b"file", parent=TOP)

    def test_make_folder_when_inside_a_new_folder_has_its_key_as_parent(self, overlay):
        """What lies in a folder that the service does not have yet refers to its local key."""
        outer = overlay.make_folder(PROJECT, b"outer", mode=0o755, uid=0, gid=0)
        inner = overlay.make_folder(outer.key, b"inner", mode=0o755, uid=0, gid=0)

        assert [b"project", b"outer", b"inner"] == overlay.path_of(inner.key)
        assert Sending.WAITING == inner.state

    def test_dropping_always_stays_here(self, overlay):
        """An editor's own files are never queued."""
        made = make(overlay, b".a.txt.swp")

        assert made.local.local_only
        assert [] == overlay.locals.unsent()


class TestRemoving:
    def test_remove_of_an_entity_hides_it_and_queues_its_delete(self, overlay):
        """The row remembers what the service had."""
        overlay.remove(named(overlay, b"a.txt"))

        (row,) = overlay.locals.unsent()
        assert overlay.known_child(PROJECT, b"a.txt") is None
        assert (FILE, 1, 3) == (row.entity, row.gone, row.base_version)

    def test_remove_of_what_was_never_sent_leaves_nothing(self, overlay):
        """Create and delete are nothing."""
        overlay.remove(make(overlay, b"new.txt", edit=1))

        assert [] == list(overlay.locals.all())

    def test_remove_while_being_sent_keeps_the_row(self, overlay):
        """Whoever is sending it finds it gone, and deletes what it made."""
        made = make(overlay, b"new.txt", edit=1)
        overlay.sending.add(made.local.id)
        overlay.remove(made)

        assert [1] == [row.gone for row in overlay.locals.all()]

    def test_remove_of_a_folder_that_holds_something_raises(self, overlay):
        """Told or made here, both count."""
        with pytest.raises(NotEmpty):
            overlay.remove(named(overlay, b"folder"))
        overlay.remove(named(overlay, b"inner.txt", FOLDER))
        made = make(overlay, b"x", parent=FOLDER)
        with pytest.raises(NotEmpty):
            overlay.remove(named(overlay, b"folder"))
        overlay.remove(made)
        overlay.remove(named(overlay, b"folder"))

        assert overlay.known_child(PROJECT, b"folder") is None

    def test_create_when_the_delete_is_unsent_takes_over_the_entity(self, overlay):
        """Delete and create of one name are a new version."""
        overlay.remove(named(overlay, b"a.txt"))
        made = make(overlay, b"a.txt")

        row = overlay.locals.get(made.local.id)
        assert (FILE, 3, 0) == (row.entity, row.base_version, row.gone)
        assert [row.id] == [r.id for r in overlay.locals.all()]


class TestRenaming:
    def test_rename_of_an_entity_keeps_its_key(self, overlay):
        """A move is a change of name and parent, nothing else."""
        overlay.rename(named(overlay, b"a.txt"), FOLDER, b"c.txt")

        moved = named(overlay, b"c.txt", FOLDER)
        assert FILE == moved.key
        assert overlay.known_child(PROJECT, b"a.txt") is None
        assert Sending.WAITING == moved.local.state

    def test_rename_of_a_new_file_over_an_entity_is_its_next_version(self, overlay):
        """An editor's atomic save."""
        made = make(overlay, b"a.txt.tmp", edit=1)
        overlay.rename(made, PROJECT, b"a.txt")

        saved = named(overlay, b"a.txt")
        assert (made.key, FILE, 3) == (saved.key, saved.local.entity, saved.local.base_version)
        assert [saved.local.id] == [r.id for r in overlay.locals.all()]

    def test_rename_of_a_dropping_over_an_entity_is_sent(self, overlay):
        """Its new name decides, not the old one."""
        made = make(overlay, b".#tmp", edit=1)
        overlay.rename(made, PROJECT, b"a.txt")

        saved = named(overlay, b"a.txt").local
        assert (FILE, 0, Sending.WAITING) == (saved.entity, saved.local_only, saved.state)

    def test_rename_of_an_entity_over_another_deletes_that(self, overlay):
        """Both are entities: the one moves, the other goes to the trash can."""
        overlay.rename(named(overlay, b"a.txt"), PROJECT, b"b.txt")

        rows = {r.entity: r for r in overlay.locals.all()}
        assert (b"b.txt", 0) == (rows[FILE].name, rows[FILE].gone)
        assert 1 == rows[OTHER].gone

    def test_rename_to_a_backup_name_leaves_the_entity_for_the_next_save(self, overlay):
        """`foo` → `foo~`, then a new `foo`: one entity, one new version, a backup that stays here."""
        seen = named(overlay, b"a.txt")
        with overlay.change() as tx:
            claimed = overlay.claim(tx, seen)
            overlay.locals.update(tx, claimed.id, staged=FIRST + 77, size=5)
        overlay.rename(named(overlay, b"a.txt"), PROJECT, b"a.txt~")
        made = make(overlay, b"a.txt", edit=1)

        backup = named(overlay, b"a.txt~").local
        saved = overlay.locals.get(made.local.id)
        assert (None, 1) == (backup.entity, backup.local_only)
        assert (FILE, 3) == (saved.entity, saved.base_version)

    def test_rename_exchange_swaps_two_names(self, overlay):
        """Both are there at every moment."""
        overlay.rename(named(overlay, b"a.txt"), PROJECT, b"b.txt", flags=EXCHANGE)

        assert (OTHER, FILE) == (named(overlay, b"a.txt").key, named(overlay, b"b.txt").key)

    def test_rename_noreplace_when_taken_raises(self, overlay):
        """Nothing is replaced."""
        with pytest.raises(Exists):
            overlay.rename(named(overlay, b"a.txt"), PROJECT, b"b.txt", flags=NOREPLACE)

    def test_rename_of_a_folder_into_itself_is_refused(self, overlay):
        """Also through a folder below it."""
        inner = overlay.make_folder(FOLDER, b"inner", mode=0o755, uid=0, gid=0)
        with pytest.raises(UsageError):
            overlay.rename(named(overlay, b"folder"), inner.key, b"folder")

    def test_rename_back_before_it_was_sent_is_what_the_service_has(self, overlay):
        """The row's place is its base again."""
        overlay.rename(named(overlay, b"a.txt"), PROJECT, b"c.txt")
        overlay.rename(named(overlay, b"c.txt"), PROJECT, b"a.txt")

        row = named(overlay, b"a.txt").local
        assert (row.base_parent, row.base_name) == (row.parent, row.name.decode())


class TestFollowing:
    def test_follow_when_an_entity_vanished_drops_a_clean_row(self, overlay):
        """What only this machine kept about it goes too."""
        overlay.set_attributes(named(overlay, b"a.txt"), mode=0o600)
        overlay.entities.forget(FILE)
        overlay.follow(FILE, gone=True)

        assert [] == list(overlay.locals.all())

    def test_follow_when_an_entity_was_renamed_moves_a_clean_row(self, overlay):
        """The service's rename is seen under the new name, with the mode kept here."""
        overlay.set_attributes(named(overlay, b"a.txt"), mode=0o600)
        overlay.entities.apply_listing(
            PROJECT, [header(FOLDER, "folder", Kind.FOLDER), header(FILE, "z.txt", Kind.FILE, 3)]
        )
        overlay.follow(FILE, gone=False)

        assert 0o600 == named(overlay, b"z.txt").local.mode
        assert overlay.known_child(PROJECT, b"a.txt") is None

    def test_start_anew_gives_what_was_sent_its_entity_as_key(self, overlay):
        """What lies in a folder refers to it by that key from then on."""
        outer = overlay.make_folder(PROJECT, b"outer", mode=0o755, uid=0, gid=0)
        inner = overlay.make_folder(outer.key, b"inner", mode=0o755, uid=0, gid=0)
        with overlay.change() as tx:
            overlay.locals.update(tx, outer.id, entity=99)
        overlay.start_anew()

        assert 99 == overlay.locals.get(inner.id).parent
        assert 99 == overlay.locals.get(outer.id).key


class TestPaths:
    def test_find_path_always_agrees_with_path_of(self, overlay):
        """A path leads to the thing whose path it is."""
        make(overlay, b"new.txt", parent=FOLDER)
        for name, parent in ((b"new.txt", FOLDER), (b"a.txt", PROJECT)):
            key = named(overlay, name, parent).key
            path = overlay.path_of(key)
            assert path is not None
            assert key == overlay.find_path(path).key

    @pytest.mark.parametrize("target", [b"../a.txt", b"./inner.txt", b"/top/project/a.txt"])
    def test_leads_to_when_the_target_lies_inside_finds_it(self, overlay, target):
        """Relative and absolute targets lead to entities."""
        overlay.mountpoint = b"/top"

        assert overlay.leads_to(FOLDER, target) is not None

    @pytest.mark.parametrize("target", [b"/etc/passwd", b"../../../x", b"nothing"])
    def test_leads_to_when_the_target_lies_outside_finds_nothing(self, overlay, target):
        """Those symlinks stay on this machine."""
        assert overlay.leads_to(FOLDER, target) is None

    def test_remove_twice_raises(self, overlay):
        """A thing is removed once."""
        seen = named(overlay, b"a.txt")
        overlay.remove(seen)
        with pytest.raises(NotFound):
            overlay.remove(seen)
