"""`synd registry seed`: a folder becomes a project."""

import json
import os
import subprocess

import httpx
import pytest

from tests.integration.registry.conftest import Api
from tests.support.registry import command, running, seed_registry


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "source"
    (root / "sub" / "deep").mkdir(parents=True)
    (root / "a.txt").write_text("hello\n")
    (root / "x=1.txt").write_text("odd\n")
    (root / "empty").write_bytes(b"")
    (root / "sub" / "deep" / "b.bin").write_bytes(os.urandom(2_000_000))
    (root / "inside").symlink_to("sub/deep/b.bin")
    (root / "outside").symlink_to("/etc/hostname")
    os.mkfifo(root / "pipe")
    return root


def tree(api, parent):
    body = {"parentId": parent, "includeTypes": ["file", "folder", "link"]}
    found = {}
    for header in api.ok("POST", "/repo/v1/entity/children", body)["page"]:
        kind = header["type"].rpartition(".")[2]
        found[header["name"]] = tree(api, header["id"]) if kind == "Folder" else kind
    return found


class TestImport:
    def test_folder_becomes_a_project_while_the_registry_runs(self, folder, shared, api):
        """Files, folders, links within; what cannot be is reported, not lost silently."""
        told = seed_registry(shared.data, folder, "Seeded live")

        assert tree(api, told["project_id"]) == {
            "a.txt": "FileEntity",
            "x_1.txt": "FileEntity",
            "empty": "FileEntity",
            "inside": "Link",
            "sub": {"deep": {"b.bin": "FileEntity"}},
        }
        assert (told["files"], told["folders"], told["links"]) == (4, 2, 1)
        assert told["renamed"] == [{"path": "x=1.txt", "name": "x_1.txt"}]
        assert {s["path"] for s in told["skipped"]} == {"outside", "pipe"}

    def test_names_that_may_stay_do(self, tmp_path):
        """Others that would be mapped to them make way, whatever comes first in the alphabet."""
        source = tmp_path / "source"
        (source / "c:d").mkdir(parents=True)
        for name in ("a:b", "a;b", "a_b", "c_d"):
            (source / name).write_text(name)
        told = seed_registry(tmp_path / "data", source, "Names")

        assert {one["path"]: one["name"] for one in told["renamed"]} == {
            "a:b": "a_b (2)", "a;b": "a_b (3)", "c:d": "c_d (2)",
        }  # fmt: skip

    def test_what_lies_too_deep_is_told(self, tmp_path):
        """The registry could not reach it: 50 levels are all that it walks."""
        source = tmp_path / "source"
        levels = [f"d{n}" for n in range(60)]
        source.joinpath(*levels).mkdir(parents=True)
        for depth in (10, 60):
            source.joinpath(*levels[:depth], "f.txt").write_text("x")
        data = tmp_path / "data"
        told = seed_registry(data, source, "Deep")
        [skipped] = told["skipped"]
        assert "50 levels" in skipped["reason"]

        with running(data) as registry:
            api = Api(registry)
            at, way = told["project_id"], []
            body = {"includeTypes": ["file", "folder"]}
            while at:
                found = api.ok("POST", "/repo/v1/entity/children", body | {"parentId": at})["page"]
                way += [one["name"] for one in found if one["type"].endswith("Folder")]
                at = next((one["id"] for one in found if one["type"].endswith("Folder")), None)
            api.http.close()
        assert (len(way), told["folders"]) == (48, 48)
        assert skipped["path"] == "/".join(levels[:49])

    def test_bytes_are_served_and_not_copied(self, folder, tmp_path):
        """Content is what was in the folder, empty files too; on one file system nothing is copied."""
        data = tmp_path / "data"
        told = seed_registry(data, folder, "Bytes")

        assert set(told["linked"]) <= {"hardlink", "reflink", "known"}
        with running(data) as registry:
            api = Api(registry)
            for name, content in (("a.txt", b"hello\n"), ("empty", b"")):
                child = {"parentId": told["project_id"], "entityName": name}
                entity = api.ok("POST", "/repo/v1/entity/child", child)["id"]
                url = api.url(api.ok("GET", f"/repo/v1/entity/{entity}"))
                assert httpx.get(url, trust_env=False).content == content
            api.http.close()

    def test_name_that_is_taken_is_refused_or_replaced(self, folder, tmp_path):
        """Nothing is overwritten unasked; `--replace` moves the old project to the trash."""
        data = tmp_path / "data"
        first = seed_registry(data, folder, "Twice")
        again = subprocess.run(
            command("seed", "--data", str(data), "--from", str(folder), "--project", "Twice"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert again.returncode == 73
        assert "--replace" in again.stderr

        second = seed_registry(data, folder, "Twice", "--replace")
        with running(data) as registry:
            api = Api(registry)
            (trashed,) = api.ok("GET", "/repo/v1/trashcan/view")["results"]
            api.http.close()
        assert trashed["entityId"] == first["project_id"] != second["project_id"]

    @pytest.mark.parametrize(
        ("source", "project", "code"),
        [("nothing", "P", 66), ("source/a.txt", "P", 65), ("source", "no/slash", 64)],
    )
    def test_wrong_arguments_have_their_exit_codes(self, folder, tmp_path, source, project, code):
        """Missing folder, a file, a name that Synapse refuses."""
        done = subprocess.run(
            command("seed", "--data", str(tmp_path / "d"), "--from", str(tmp_path / source),
                    "--project", project),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip

        assert done.returncode == code
        assert "Traceback" not in done.stderr

    def test_error_with_json_is_an_object_on_standard_output(self, tmp_path):
        """As of every command: a program reads the reason from where it reads results."""
        done = subprocess.run(
            command("seed", "--data", str(tmp_path / "d"), "--from", str(tmp_path / "nothing"),
                    "--project", "P", "--json"),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )  # fmt: skip

        assert done.returncode == 66
        assert done.stderr == ""
        assert json.loads(done.stdout)["error"]["type"] == "NotFound"
