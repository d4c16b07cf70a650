"""The rules of entities, on the database itself."""

import pytest

from synd.registry import access, entities, handles, kinds
from synd.registry.access import Caller
from synd.registry.db import Database, add_user
from synd.registry.web import RefusedError

ALL = frozenset({"view", "download", "modify"})
OWNER = Caller(kinds.FIRST_USER, "synd", ALL)
PROJECT = kinds.BY_NAME["project"].concrete
FOLDER = kinds.BY_NAME["folder"].concrete
FILE = kinds.BY_NAME["file"].concrete


@pytest.fixture
def db(tmp_path):
    database = Database(tmp_path / "registry.db")
    yield database
    database.close()


@pytest.fixture
def project(db):
    return make(db, PROJECT, "P", None)


def make(db, concrete, name, parent, **more):
    body = {"concreteType": concrete, "name": name, **more}
    if parent is not None:
        body["parentId"] = f"syn{parent}"
    return entities.create(db, OWNER, body, None)


def mint(db, md5, size=5, user=kinds.FIRST_USER):
    with db.write() as tx:
        return handles.mint(tx, user, name="x", md5=md5 * 32, size=size)


def put(db, entity, *, new_version=False, caller=OWNER, **changes):
    row = entities.get(db, entity)
    body = entities.to_json(row, entities.get_version(db, entity, row.current)) | changes
    return entities.update(db, caller, entity, body, new_version=new_version, activity=None)


def refusal(status, call, *args, **options):
    with pytest.raises(RefusedError) as caught:
        call(*args, **options)
    assert caught.value.status == status
    return caught.value


class TestCreate:
    def test_name_is_unique_within_a_parent_and_case_sensitive(self, db, project):
        """409 for the same name of any kind; another case is another name."""
        make(db, FOLDER, "a", project)

        refusal(409, make, db, FILE, "a", project, dataFileHandleId=str(mint(db, "1")))
        make(db, FOLDER, "A", project)

    @pytest.mark.parametrize("name", ["a/b", "a@b", "naïve", "", "   ", "x" * 257])
    def test_name_outside_the_allowed_signs_is_400(self, db, project, name):
        """The reason quotes the name."""
        assert name in refusal(400, make, db, FOLDER, name, project).reason

    def test_missing_name_becomes_the_id(self, db, project):
        """An entity without a name is named by its id."""
        entity = entities.create(
            db, OWNER, {"concreteType": FOLDER, "parentId": f"syn{project}"}, None
        )

        assert entities.get(db, entity).name == f"syn{entity}"

    def test_file_as_parent_is_400(self, db, project):
        """Only projects and folders hold children."""
        file = make(db, FILE, "f", project, dataFileHandleId=str(mint(db, "1")))

        refusal(400, make, db, FOLDER, "x", file)

    def test_folder_beyond_the_50th_level_is_400(self, db, project):
        """The depth of a path is bounded."""
        parent = project
        for n in range(access.MAX_DEPTH - 2):
            parent = make(db, FOLDER, f"d{n}", parent)

        refusal(400, make, db, FOLDER, "deeper", parent)

    def test_foreign_file_handle_is_403(self, db, project):
        """Only who made a handle may attach it."""
        handle = mint(db, "1", user=add_user(db, "other"))

        refusal(403, make, db, FILE, "f", project, dataFileHandleId=str(handle))


class TestUpdate:
    @pytest.fixture
    def file(self, db, project):
        return make(db, FILE, "f", project, dataFileHandleId=str(mint(db, "1")))

    def test_stale_etag_is_412(self, db, file):
        """Optimistic concurrency is by the etag in the body."""
        refusal(412, put, db, file, etag="other")

    def test_changed_content_makes_a_version_without_being_asked(self, db, file):
        """A handle with another md5 makes a version; its label is the number."""
        number = put(db, file, dataFileHandleId=str(mint(db, "2")), versionLabel="1")

        assert number == 2
        assert entities.get_version(db, file, 2).label == "2"

    def test_equal_content_keeps_the_version(self, db, file):
        """A handle with the same md5 replaces the old one in place."""
        handle = mint(db, "1")

        assert put(db, file, dataFileHandleId=str(handle)) == 1
        assert entities.get_version(db, file, 1).handle == handle

    def test_label_used_twice_is_409(self, db, file):
        """Labels are unique per entity, whatever their case."""
        put(db, file, new_version=True, versionLabel="Final")

        refusal(409, put, db, file, new_version=True, versionLabel="final")

    def test_numbers_are_never_used_again(self, db, file):
        """After deleting version 3, the next one is 4."""
        put(db, file, new_version=True, versionLabel="2")
        put(db, file, new_version=True, versionLabel="3")
        entities.delete_version(db, OWNER, file, 3)

        assert entities.get(db, file).current == 2
        assert put(db, file, new_version=True, versionLabel=None) == 4

    def test_old_version_keeps_its_time(self, db, file):
        """Later changes do not touch the modification time of what was."""
        before = entities.get_version(db, file, 1).modified_ns
        put(db, file, new_version=True, versionLabel="2")
        put(db, file, name="g")

        assert entities.get_version(db, file, 1).modified_ns == before
        assert entities.get(db, file).modified_ns == entities.get_version(db, file, 2).modified_ns

    def test_change_of_a_child_leaves_the_parent_alone(self, db, project, file):
        """Neither etag nor time of a folder tells of its content."""
        before = entities.get(db, project)
        put(db, file, name="g")
        entities.delete(db, OWNER, file)

        assert entities.get(db, project) == before

    def test_move_into_itself_is_400(self, db, project):
        """A folder cannot hang below itself."""
        outer = make(db, FOLDER, "outer", project)
        inner = make(db, FOLDER, "inner", outer)

        refusal(400, put, db, outer, parentId=f"syn{inner}")

    def test_last_version_cannot_be_deleted(self, db, file):
        """An entity has at least one version; deleting an unknown one does nothing."""
        refusal(400, entities.delete_version, db, OWNER, file, 1)
        entities.delete_version(db, OWNER, file, 9)


class TestTrash:
    def test_whole_tree_is_gone_and_comes_back(self, db, project):
        """Trashing a folder hides all below it at once; restoring gives it back under the same ids."""
        folder = make(db, FOLDER, "d", project)
        inner = make(db, FOLDER, "e", folder)
        entities.delete(db, OWNER, folder)

        refusal(404, access.place, db, inner)
        make(db, FOLDER, "d", project)
        refusal(409, entities.restore, db, OWNER, folder, None)
        entities.restore(db, OWNER, folder, make(db, FOLDER, "other", project))
        assert access.place(db, inner).ancestors[1] == folder

    def test_delete_of_what_is_gone_does_nothing(self, db, project):
        """Deleting twice is no error."""
        entities.delete(db, OWNER, project)
        entities.delete(db, OWNER, project)
        entities.delete(db, OWNER, 99)

    def test_restore_is_for_who_deleted(self, db, project):
        """403 for anybody else."""
        other = Caller(add_user(db, "other"), "other", ALL)
        entities.delete(db, OWNER, project)

        refusal(403, entities.restore, db, other, project, None)


class TestAccess:
    def test_stranger_sees_nothing_until_granted(self, db, project):
        """A project's ACL grants its creator alone; what is below inherits."""
        other = Caller(add_user(db, "other"), "other", ALL)
        folder = make(db, FOLDER, "d", project)
        refusal(403, access.need, db, folder, other, access.READ)

        with db.write() as tx:
            access.set_acl(tx, project, {OWNER.user: 255, kinds.AUTHENTICATED: access.READ})

        assert access.need(db, folder, other, access.READ).benefactor == project
        refusal(403, access.need, db, folder, other, access.UPDATE)

    def test_terms_hold_for_all_below(self, db, project):
        """Unmet terms of a folder are unmet terms of its files."""
        folder = make(db, FOLDER, "d", project)
        with db.write() as tx:
            tx.execute("UPDATE entity SET unmet_terms = 1 WHERE id = ?", (project,))

        assert access.place(db, folder).unmet
