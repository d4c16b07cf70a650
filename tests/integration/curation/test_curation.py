"""Tasks, record sets and schemas against a registry in another process; lost answers double nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from synd.curation import (
    create_file_based,
    create_record_based,
    delete_task,
    register_schema,
    schema_id,
)
from synd.errors import Exists, NotFound, RemoteUnavailable, SyndError, UsageError
from synd.ids import EntityId
from tests.support.curating import METADATA, SCHEMA, Curator, within

KEY = ["specimenID"]


def record_based(curator: Curator, **more):
    """A record-based task of the example."""
    given = {
        "template": METADATA,
        "upsert_key": KEY,
        "data_type": "Specimens",
        "instructions": "All of them.",
        **more,
    }
    return curator.do(
        lambda c: create_record_based(c, curator.project, curator.project, "Records", **given)
    )


class TestRecordBased:
    def test_task_when_made_has_a_record_set_with_schema(self, curator: Curator):
        """One call: record set, binding, task."""
        uri = curator.schema()

        made = record_based(curator, schema=uri)
        tasks = curator.do(lambda c: c.curation_tasks(curator.project))
        bound = curator.do(lambda c: c.bound_schema(made.record_set.id))

        assert [made.task] == tasks
        assert ("record", made.record_set.id) == (made.task.kind, made.task.record_set)
        assert (tuple(KEY), uri) == (made.record_set.upsert_key, bound)

    @pytest.mark.parametrize(
        ("more", "error", "said"),
        [
            ({"upsert_key": ["nothing"]}, UsageError, "'nothing' is no column"),
            ({"upsert_key": []}, UsageError, "needs a key"),
            ({"schema": "no.such-schema-1.0.0"}, NotFound, "schema"),
            ({"template": Path("no/such.csv")}, NotFound, "cannot be read"),
            ({"data_type": " "}, UsageError, "needs a data type"),
        ],
        ids=["unknown key", "no key", "unknown schema", "no template", "no data type"],
    )
    def test_task_when_it_cannot_be_made_leaves_nothing(self, curator: Curator, more, error, said):
        """What can be known to fail is told before anything is there."""
        with pytest.raises(error, match=said):
            record_based(curator, **more)

        assert [] == curator.do(lambda c: c.curation_tasks(curator.project))
        assert curator.do(lambda c: c.find_child(curator.project, "Records")) is None

    def test_task_when_its_data_type_is_taken_makes_no_second_record_set(self, curator: Curator):
        """One task of each data type in a project; the error names the one that is there."""
        made = record_based(curator)

        with pytest.raises(Exists, match=f"task {made.task.id}"):
            curator.do(
                lambda c: create_record_based(
                    c,
                    curator.project,
                    curator.project,
                    "Second",
                    template=METADATA,
                    upsert_key=KEY,
                    data_type="Specimens",
                    instructions="",
                )
            )

        assert curator.do(lambda c: c.find_child(curator.project, "Second")) is None

    @pytest.mark.parametrize(
        "path", ["/repo/v1/entity$", "/curation/task$"], ids=["record set", "task"]
    )
    def test_task_when_an_answer_is_lost_is_made_once(self, curator: Curator, path):
        """The second try meets what the first one made, and takes it for its own."""
        curator.registry.fault(method="POST", path=path, action="drop-after")

        made = record_based(curator)

        assert [made.task] == curator.do(lambda c: c.curation_tasks(curator.project))
        assert made.record_set.id == curator.do(lambda c: c.find_child(curator.project, "Records"))

    def test_record_set_when_another_thing_has_its_name_is_not_taken_for_ours(
        self, curator: Curator, tmp_path: Path
    ):
        """Only the same bytes are what was made by the try whose answer was lost."""
        other = tmp_path / "other.csv"
        other.write_text("specimenID\nS1\n")
        record_based(curator)

        with pytest.raises(Exists):
            record_based(curator, data_type="Another", template=other)

    def test_task_when_a_later_step_fails_tells_what_stays(self, curator: Curator):
        """The record set is there, the hint names it, and the next try takes it up."""
        curator.registry.fault(
            method="POST", path="/curation/task$", action="status", status=500, times=0
        )

        with pytest.raises(RemoteUnavailable) as error:
            record_based(curator)

        kept = curator.do(lambda c: c.find_child(curator.project, "Records"))
        assert f"the record set syn{kept} was made and stays" in error.value.hint
        curator.registry.call("DELETE", "/admin/faults")
        assert kept == record_based(curator).record_set.id


class TestFileBased:
    def make(self, curator: Curator, data_type: str = "Images"):
        return curator.do(
            lambda c: create_file_based(
                c, curator.project, curator.project, data_type=data_type, instructions=""
            )
        )

    @pytest.mark.parametrize(("folder", "data_type"), [(404404, "Images"), (None, "")])
    def test_task_when_it_cannot_be_made_leaves_no_view(self, curator: Curator, folder, data_type):
        """A mistyped folder is told before a view is made over it."""
        place = curator.project if folder is None else EntityId(folder)

        with pytest.raises((NotFound, UsageError)):
            curator.do(
                lambda c: create_file_based(
                    c, curator.project, place, data_type=data_type, instructions=""
                )
            )

        assert curator.do(lambda c: c.find_child(curator.project, f"{data_type} files")) is None

    @pytest.mark.req("S0-06", "S0-41", "S0-60")
    def test_task_when_deleted_with_its_view_leaves_no_orphan(self, curator: Curator):
        """The id is read first, then the task goes, then the view."""
        task = self.make(curator)
        view = task.file_view
        assert view is not None
        curator.registry.requests(reset=True)

        gone = curator.do(lambda c: delete_task(c, task.id, delete_file_view=True))
        asked = [
            (r["method"], r["path"])
            for r in curator.registry.requests()["requests"]
            if "/version" not in r["path"]
        ]

        assert view == gone
        assert [
            ("GET", f"/repo/v1/curation/task/{task.id}"),
            ("DELETE", f"/repo/v1/curation/task/{task.id}"),
            ("DELETE", f"/repo/v1/entity/syn{view}"),
        ] == [one for one in asked if not one[1].startswith("/admin")]
        for ended in (lambda c: c.curation_task(task.id), lambda c: c.entity(view)):
            with pytest.raises(NotFound):
                curator.do(ended)

    @pytest.mark.req("S0-41")
    def test_view_when_not_asked_for_stays(self, curator: Curator):
        """Deleting a task touches nothing else by itself."""
        task = self.make(curator)
        view = task.file_view
        assert view is not None

        assert curator.do(lambda c: delete_task(c, task.id)) is None
        assert view == curator.do(lambda c: c.entity(view)).id

    @pytest.mark.req("S0-41")
    def test_view_when_the_task_has_none_leaves_the_task(self, curator: Curator):
        """A record-based task has no view: nothing is deleted."""
        task = record_based(curator).task

        with pytest.raises(UsageError, match="nothing was deleted"):
            curator.do(lambda c: delete_task(c, task.id, delete_file_view=True))

        assert task == curator.do(lambda c: c.curation_task(task.id))

    @pytest.mark.req("S0-41")
    @pytest.mark.parametrize("path", ["/curation/task/", "/entity/"], ids=["task", "view"])
    def test_delete_when_an_answer_is_lost_is_done_all_the_same(self, curator: Curator, path):
        """The second try finds it gone, which is what was wanted."""
        task = self.make(curator)
        curator.registry.fault(method="DELETE", path=path, action="drop-after")

        assert task.file_view == curator.do(
            lambda c: delete_task(c, task.id, delete_file_view=True)
        )

    @pytest.mark.req("S0-41")
    def test_view_when_it_cannot_be_deleted_is_named(self, curator: Curator):
        """The task is gone by then, and the hint says so."""
        task = self.make(curator)
        curator.registry.fault(
            method="DELETE", path="/entity/", action="status", status=403, times=0
        )

        with pytest.raises(SyndError) as error:
            curator.do(lambda c: delete_task(c, task.id, delete_file_view=True))

        assert f"the task is deleted, its view syn{task.file_view} is not" in error.value.hint

    def test_task_when_unknown_is_not_found(self, curator: Curator):
        """66 for who calls it from a shell."""
        with pytest.raises(NotFound):
            curator.do(lambda c: delete_task(c, 999_999))


class TestSchemas:
    def given(self, curator: Curator, **more):
        return {**SCHEMA, "$id": f"test.own{curator.number}-thing-1.0.0", **more}

    def test_schema_when_registered_twice_is_there_once(self, curator: Curator):
        """The same schema under the same `$id` is no error; its organization is made on the way."""
        schema = self.given(curator)

        first = curator.do(lambda c: register_schema(c, schema))
        second = curator.do(lambda c: register_schema(c, schema))

        assert (schema["$id"], False) == (first.uri, first.known)
        assert (schema["$id"], True) == (second.uri, second.known)

    def test_schema_when_another_has_its_id_is_refused(self, curator: Curator):
        """A registered version is never replaced."""
        schema = self.given(curator)
        curator.do(lambda c: register_schema(c, schema))

        with pytest.raises(Exists, match="another schema is registered"):
            curator.do(lambda c: register_schema(c, {**schema, "title": "Other"}))

    def test_schema_when_only_looked_at_is_not_registered(self, curator: Curator):
        """A dry run makes nothing."""
        curator.do(lambda c: register_schema(c, self.given(curator)))
        schema = self.given(curator, **{"$id": f"test.own{curator.number}-dry-1.0.0"})

        made = curator.do(lambda c: register_schema(c, schema, dry_run=True))

        assert not made.known
        with pytest.raises(NotFound):
            curator.do(lambda c: c.registered_schema(schema["$id"]))

    @pytest.mark.parametrize(
        "path", ["/schema/organization$", "/schema/type/create/async/start"], ids=["org", "start"]
    )
    def test_schema_when_an_answer_is_lost_is_registered(self, curator: Curator, path):
        """Or told as known by the next try; never left undone in silence."""
        schema = self.given(curator)
        curator.registry.fault(method="POST", path=path, action="drop-after")

        try:
            curator.do(lambda c: register_schema(c, schema))
        except SyndError as error:
            assert "exists" in str(error)  # noqa: PT017  # which of two jobs is first is not ours to say

        assert curator.do(lambda c: register_schema(c, schema)).known

    @pytest.mark.parametrize("uri", [None, "", "noversion", "a-b-c-d", 7])
    def test_schema_when_it_has_no_id_is_refused(self, uri):
        """It must say where it belongs."""
        with pytest.raises(UsageError, match=r"no `\$id`"):
            schema_id({} if uri is None else {"$id": uri})

    def test_schema_when_its_id_is_an_address_is_known_by_its_end(self):
        """Some clients write the service's address before it."""
        there = "https://repo.example/repo/v1/schema/type/registered/my.org-thing-1.0.0"

        assert "my.org-thing-1.0.0" == schema_id({"$id": there})


def test_tasks_when_the_service_falls_silent_end_with_the_deadline(curator: Curator):
    """All steps of one call share the time that it was given."""
    curator.registry.fault(path="/curation/task", action="delay", seconds=3, times=0)

    with pytest.raises(SyndError, match="did not answer in"):
        record_based(curator, deadline=within(0.5))
