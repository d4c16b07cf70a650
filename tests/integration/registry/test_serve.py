"""The life of a registry process, its tokens and its limits."""

import json
import signal
import stat
import subprocess
import threading

import httpx
import pytest

from tests.integration.registry.conftest import Api
from tests.support.registry import command, running, start_registry


class TestLife:
    def test_stop_is_clean_and_data_and_token_stay(self, tmp_path):
        """SIGTERM ends with 0; the next start has the same token, entities and URL secret."""
        registry = start_registry(tmp_path / "data")
        api = Api(registry)
        project = api.project()
        api.http.close()
        token = registry.token
        assert registry.stop() == 0

        with running(tmp_path / "data") as again:
            api = Api(again)
            assert again.token == token
            assert api.ok("GET", f"/repo/v1/entity/{project}")["id"] == project
            api.http.close()

    def test_interrupt_ends_it_too(self, tmp_path):
        """Ctrl-C is a clean end."""
        registry = start_registry(tmp_path / "data")
        registry.process.send_signal(signal.SIGINT)

        assert registry.stop() == 0

    def test_kill_loses_nothing_that_was_answered(self, tmp_path):
        """What a 201 told is there after kill -9."""
        registry = start_registry(tmp_path / "data")
        api = Api(registry)
        file = api.file(api.project(), "kept", b"kept bytes")
        api.http.close()
        registry.kill()

        with running(tmp_path / "data") as again:
            api = Api(again)
            assert httpx.get(api.url(file), trust_env=False).content == b"kept bytes"
            api.http.close()

    def test_token_file_is_for_the_owner_alone(self, shared):
        """0600, and the token itself is not in the database."""
        path = shared.data / "token"

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_text().strip() == shared.token
        assert shared.token.encode() not in (shared.data / "registry.db").read_bytes()

    def test_second_server_on_one_folder_is_refused(self, shared):
        """Two servers would each remember their own; the hint says what to do."""
        done = subprocess.run(
            command("serve", "--data", str(shared.data), "--json"),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

        assert done.returncode == 75
        told = json.loads(done.stdout)
        assert told["schema"] == 1
        assert told["error"]["type"] == "AlreadyRunning"
        assert "another registry" in told["error"]["title"]

    def test_taken_port_is_told(self, shared, tmp_path):
        """A port in use is an error with the port in it, not a traceback."""
        port = shared.url.rpartition(":")[2]
        done = subprocess.run(
            command("serve", "--data", str(tmp_path / "x"), "--port", port),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

        assert done.returncode != 0
        assert port in done.stderr
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("port", ["65536", "-1", "http"])
    def test_port_that_is_none_is_bad_usage(self, tmp_path, port):
        """A number that no port has is 64 and names the option."""
        done = subprocess.run(
            command("serve", "--data", str(tmp_path / "x"), "--port", port),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )

        assert done.returncode == 64
        assert "--port" in done.stderr


class TestTokens:
    def test_requests_without_a_valid_token_are_401(self, api, shared):
        """Except the base URLs and the version."""
        for token in ("", "nonsense"):
            status, body = shared.call("GET", "/repo/v1/userProfile", token=token)
            assert status == 401
            assert body["reason"]
        for path in ("/repo/v1", "/auth/v1", "/file/v1", "/", "/repo/v1/version"):
            assert shared.call("GET", path, token="")[0] == 200

    @pytest.mark.parametrize(
        ("scopes", "allowed"),
        [(["view"], {"view"}), (["view", "download"], {"view", "download"}),
         (["view", "modify"], {"view", "modify"})],
    )  # fmt: skip
    def test_scope_that_a_token_lacks_is_403(self, api, project, scopes, allowed):
        """view reads, download gives bytes, modify changes."""
        file = api.file(project, "a", b"abc")
        name = {"name": " ".join(scopes) + project, "scope": scopes}
        token = api.ok("POST", "/auth/v1/personalAccessToken", name, 201)["token"]
        limited = Api(api.registry, token)
        batch = {
            "includePreSignedURLs": True,
            "requestedFiles": [
                {"fileHandleId": file["dataFileHandleId"], "associateObjectId": file["id"],
                 "associateObjectType": "FileEntity"}
            ],
        }  # fmt: skip

        asked = {
            "view": limited.http.get(f"/repo/v1/entity/{file['id']}"),
            "download": limited.http.post("/file/v1/fileHandle/batch", json=batch),
            "modify": limited.http.delete(f"/repo/v1/entity/{file['id']}"),
        }

        limited.http.close()
        assert allowed == {scope for scope, answer in asked.items() if answer.is_success}
        assert {403} == {a.status_code for s, a in asked.items() if s not in allowed}

    def test_deleted_token_is_401_at_once(self, api):
        """A revoked token opens nothing any more."""
        token = api.ok(
            "POST", "/auth/v1/personalAccessToken", {"name": "short", "scope": ["view"]}
        )["token"]
        (record,) = [
            t
            for t in api.ok("GET", "/auth/v1/personalAccessToken")["results"]
            if t["name"] == "short"
        ]
        limited = Api(api.registry, token)
        limited.ok("GET", "/repo/v1/userProfile")

        api.ok("DELETE", f"/auth/v1/personalAccessToken/{record['id']}")

        limited.refused(401, "GET", "/repo/v1/userProfile")
        limited.http.close()

    def test_users_are_apart(self, api, project):
        """Another user sees a project only after its ACL says so, and is never the registry's owner."""
        other = api.user()

        other.refused(403, "GET", f"/repo/v1/entity/{project}")
        other.refused(403, "GET", "/admin/requests")
        other.http.close()


@pytest.mark.slow
class TestLimits:
    def test_version_tells_the_limits(self, tmp_path, api):
        """synd's own client goes as fast as the registry allows."""
        assert api.ok("GET", "/repo/v1/version")["limits"] is None
        with running(tmp_path / "data", "--throttle") as registry:
            throttled = Api(registry)
            told = throttled.ok("GET", "/repo/v1/version")
            throttled.http.close()

        assert told["limits"] == {"concurrent": 3, "perMinute": 600}
        assert told["synd-registry"] is True

    def test_fourth_request_at_once_is_429_with_a_bare_reason(self, tmp_path):
        """Of eight at once three pass; what waits counts as running."""
        answers: list[tuple[int, dict[str, object]]] = []
        with running(tmp_path / "data", "--throttle") as registry:
            registry.fault(path="userProfile", action="delay", seconds=1.0, times=0)
            together = threading.Barrier(8)

            def ask() -> None:
                together.wait()
                answers.append(registry.call("GET", "/repo/v1/userProfile"))

            threads = [threading.Thread(target=ask) for _ in range(8)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert sorted(status for status, _ in answers) == [200] * 3 + [429] * 5
        assert all(list(body) == ["reason"] for status, body in answers if status == 429)

    def test_601st_request_in_a_minute_is_429(self, tmp_path):
        """Bytes do not count, requests do."""
        with running(tmp_path / "data", "--throttle") as registry:
            api = Api(registry)
            url = api.url(api.file(api.project(), "a", b"abc"))
            statuses = [api.http.get("/repo/v1/userProfile").status_code for _ in range(600)]

            assert httpx.get(url, trust_env=False).content == b"abc"
            assert statuses[0] == 200
            assert statuses[-1] == 429
            assert list(api.http.get("/repo/v1/userProfile").json()) == ["reason"]
            api.http.close()
