"""Children: pages, orders, filters, counts."""

import pytest

from synd.registry import seed
from synd.registry.db import Database
from tests.integration.registry.conftest import Api
from tests.support.registry import running

CHILDREN = "/repo/v1/entity/children"
TYPES = ["folder", "file", "searchindex", "recordset", "virtualtable"]


def pages(api, parent, **more):
    body = {"parentId": parent, "includeTypes": TYPES, **more}
    while True:
        answer = api.ok("POST", CHILDREN, body, 200)
        yield answer
        if not answer.get("nextPageToken"):
            return
        body["nextPageToken"] = answer["nextPageToken"]


def names(api, parent, **more):
    return [header["name"] for page in pages(api, parent, **more) for header in page["page"]]


@pytest.fixture
def many(api, project):
    for n in range(120):
        api.folder(project, f"d{(n * 7) % 120:03d}")
    return project


class TestPages:
    def test_pages_of_fifty_cover_everything_in_order(self, api, many):
        """120 children come in 3 pages, each once; tokens are <limit>a<offset>."""
        answers = list(pages(api, many, includeTotalChildCount=True, includeSumFileSizes=True))

        assert [50, 50, 20] == [len(a["page"]) for a in answers]
        assert ["50a50", "50a100", None] == [a["nextPageToken"] for a in answers]
        assert {(a["totalChildCount"], a["sumFileSizesBytes"]) for a in answers} == {(120, 0)}
        assert names(api, many) == [f"d{n:03d}" for n in range(120)]

    @pytest.mark.parametrize("by", ["NAME", "CREATED_ON", "MODIFIED_ON"])
    def test_every_order_has_its_reverse(self, api, many, by):
        """Each sort key, both ways, over page ends."""
        forth = names(api, many, sortBy=by, sortDirection="ASC")
        back = names(api, many, sortBy=by, sortDirection="DESC")

        assert len(set(forth)) == 120
        assert forth == back[::-1]
        if by != "NAME":
            assert forth == [f"d{(n * 7) % 120:03d}" for n in range(120)]

    def test_token_that_was_never_handed_out_is_an_offset(self, api, many):
        """After a restart, or by hand: the offset counts."""
        answer = api.ok(
            "POST", CHILDREN, {"parentId": many, "includeTypes": TYPES, "nextPageToken": "50a118"}
        )

        assert [h["name"] for h in answer["page"]] == ["d118", "d119"]

    @pytest.mark.parametrize("token", ["x", "51a50", "a50", "50a", 5])
    def test_token_of_another_shape_is_400(self, api, many, token):
        """No page without a valid token."""
        api.refused(
            400, "POST", CHILDREN,
            {"parentId": many, "includeTypes": TYPES, "nextPageToken": token},
        )  # fmt: skip


class TestFilters:
    def test_unknown_types_find_nothing_and_harm_nothing(self, api, project):
        """Clients name types that are newer than the registry."""
        api.folder(project, "d")

        assert [] == names(api, project, includeTypes=["searchindex"])
        assert ["d"] == names(api, project, includeTypes=["searchindex", "folder"])

    def test_no_type_at_all_is_400(self, api, project):
        """includeTypes must hold one."""
        api.refused(400, "POST", CHILDREN, {"parentId": project, "includeTypes": []})

    def test_counts_and_sizes_are_of_the_types_asked_for(self, api, project):
        """Counts follow the filter, and every change."""
        file = api.file(project, "a.bin", b"x" * 10)
        api.file(project, "b.bin", b"y" * 7)
        api.folder(project, "d")
        counted = {"includeTotalChildCount": True, "includeSumFileSizes": True}

        (before,) = pages(api, project, includeTypes=["file"], **counted)
        handle = api.upload(b"z" * 100, "a.bin")
        api.ok("PUT", f"/repo/v1/entity/{file['id']}", file | {"dataFileHandleId": handle})
        (after,) = pages(api, project, **counted)

        assert (2, 17) == (before["totalChildCount"], before["sumFileSizesBytes"])
        assert (3, 107) == (after["totalChildCount"], after["sumFileSizesBytes"])

    def test_no_parent_lists_the_projects_one_may_see(self, api, project):
        """`parentId` null is the root, and projects alone; a stranger's are left out."""
        other = api.user()

        mine = {h["id"] for page in pages(api, None) for h in page["page"]}
        theirs = [h for page in pages(other, None) for h in page["page"]]

        other.http.close()
        assert project in mine
        assert project not in {h["id"] for h in theirs}

    def test_children_with_a_list_of_their_own_are_filtered(self, api, project):
        """A folder that one may not read is neither listed nor counted."""
        other = api.user()
        owner = int(api.ok("GET", "/repo/v1/userProfile")["ownerId"])
        acl = api.ok("GET", f"/repo/v1/entity/{project}/acl")
        acl["resourceAccess"].append({"principalId": 273948, "accessType": ["READ"]})
        api.ok("PUT", f"/repo/v1/entity/{project}/acl", acl)
        api.folder(project, "open")
        closed = api.folder(project, "closed")
        own = {"resourceAccess": [{"principalId": owner, "accessType": ["READ", "DELETE"]}]}
        api.ok("POST", f"/repo/v1/entity/{closed['id']}/acl", own)

        (page,) = pages(other, project, includeTotalChildCount=True)
        other.refused(403, "GET", f"/repo/v1/entity/{closed['id']}")
        other.http.close()

        assert [h["name"] for h in page["page"]] == ["open"]
        assert page["totalChildCount"] == 1
        assert names(api, project) == ["closed", "open"]


@pytest.mark.slow
class TestScale:
    def test_deep_pages_do_not_cost_a_scan(self, tmp_path):
        """In a folder of 30 000 every page is read with a bounded number of rows: the last as fast as the first."""
        db = Database(tmp_path / "data" / "registry.db")
        project = f"syn{seed.synthetic(db, 30_000, per_folder=30_000)}"
        db.close()
        with running(tmp_path / "data") as registry:
            api = Api(registry)
            seen = names(api, project, sortBy="CREATED_ON", includeTotalChildCount=True)
            api.http.close()

        assert len(set(seen)) == 30_000
