"""The official client, in two versions, does its work against the registry."""

import pytest

from tests.integration.synapseclient.conftest import Peer

pytestmark = [pytest.mark.tools, pytest.mark.slow]


class TestStart:
    def test_login_with_all_checks_probes_four_endpoints(self, peer: Peer):
        """`Synapse().login()` asks the four base URLs and the profile, and is content with the answers."""
        peer.run("login")

        asked = peer.asked()
        assert [("GET", p) for p in ("/repo/v1", "/auth/v1", "/file/v1")] == asked[:3]
        assert ("GET", "/") in asked[:5]
        assert ("GET", "/repo/v1/userProfile") in asked

    def test_login_without_checks_asks_the_profile_alone(self, peer: Peer):
        """`skip_checks` leaves one request."""
        peer.run("login", "quick")

        assert peer.asked()[0] == ("GET", "/repo/v1/userProfile")


class TestScripts:
    @pytest.mark.parametrize(
        "script",
        [
            "legacy",
            "transfer",
            "sync",
            "views",
            "tables",
            "wikis",
            "evaluations",
        ],
    )
    def test_script_runs_and_meets_no_unknown_route(self, peer: Peer, script: str):
        """A whole area of the client works, and asks for nothing that the registry does not have."""
        peer.run(script)

        assert unknown_routes(peer) == []

    def test_models_run_and_meet_no_unknown_route(self, peer: Peer):
        """The object model works, in the version that has it whole."""
        peer.run("models")

        assert unknown_routes(peer) == []

    def test_big_download_is_ranged(self, peer: Peer):
        """20 MiB come down in 8 MiB ranges, after a size probe whose connection is dropped."""
        peer.run("transfer")

        blob = [c for c in peer.registry.requests()["counters"] if c["side"] == "blob"]
        ranged = sum(c["count"] for c in blob if c["method"] == "GET" and c["status"] == 206)
        parts = sum(c["count"] for c in blob if c["method"] == "PUT" and c["status"] == 200)
        assert ranged == 3
        assert parts == 3 + 1

    def test_transfer_survives_failures_on_the_way(self, peer: Peer):
        """One refused part, one 503 and one dropped answer: the client goes on and ends well."""
        peer.registry.fault(method="PUT", path="/add/2", action="add-failed")
        peer.registry.fault(method="POST", path="/fileHandle/batch", action="status", status=503)
        peer.registry.fault(method="POST", path="/presigned/url/batch", action="drop-before")

        peer.run("transfer")

        _, told = peer.registry.call("GET", "/admin/faults")
        assert [1, 1, 1] == [fault["hits"] for fault in told["faults"]]

    def test_restricted_file_gives_metadata_but_no_bytes(self, peer: Peer):
        """Unmet terms end a download in the client's own error."""
        entity = seeded_file(peer)
        status, _ = peer.registry.call("POST", "/admin/terms", {"entityId": entity})
        assert status == 204

        peer.run("restricted", entity)


def unknown_routes(peer: Peer) -> list[tuple[str, str]]:
    """Requests that no route of the registry takes."""
    report = peer.registry.requests()
    if not any(c["route"] == "unknown" for c in report["counters"]):
        return []
    return [(r["method"], r["path"]) for r in report["requests"] if r["status"] == 404]


def seeded_file(peer: Peer) -> str:
    """The id of a file a.txt in a new project."""
    from tests.support.registry import seed_registry

    source = peer.home / "seed"
    source.mkdir()
    (source / "a.txt").write_text("hello\n")
    told = seed_registry(peer.registry.data, source, "Seeded")
    _, child = peer.registry.call(
        "POST", "/repo/v1/entity/child", {"parentId": told["project_id"], "entityName": "a.txt"}
    )
    return str(child["id"])


class TestCommandLine:
    def test_commands_store_show_move_and_delete(self, peer: Peer):
        """`synapse -s` creates, stores, lists, shows, gets, moves and deletes."""
        made = peer.cli("create", "Project", "--name", "From the command line")
        project = next(
            word for word in made.split() if word.startswith("syn") and word[3:].isdigit()
        )
        made = peer.cli("create", "Folder", "--name", "box", "--parentId", project)
        folder = next(
            word for word in made.split() if word.startswith("syn") and word[3:].isdigit()
        )
        path = peer.home / "c.txt"
        path.write_text("by command\n")
        stored = peer.cli("store", str(path), "--parentId", project)
        file = next(w for w in stored.split() if w.startswith("syn") and w[3:].isdigit())

        assert "c.txt" in peer.cli("list", project)
        assert "c.txt" in peer.cli("list", "-l", "-r", project)
        assert file in peer.cli("show", file)
        peer.cli("mv", "--id", file, "--parentId", folder)
        assert folder in peer.cli("show", file)
        assert "c.txt" in peer.cli("list", folder)
        target = peer.home / "got"
        target.mkdir()
        peer.cli("get", file, "--downloadLocation", str(target))
        assert (target / "c.txt").read_text() == "by command\n"
        assert "by command" in peer.cli("cat", file)
        peer.cli("delete", file)
        assert "c.txt" not in peer.cli("list", folder)
