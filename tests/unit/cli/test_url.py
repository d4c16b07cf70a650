"""`synd url` and what the CLI says of the listener, of full queues and of jobs."""

from __future__ import annotations

import pytest

from synd.control import contract, ready

ADDRESS = "http://127.0.0.1:8421"
TOKEN = "t" * 43


@pytest.fixture
def listening(daemon, _served, home):
    """A daemon that says it serves genome browsers."""
    (home / "state").mkdir(exist_ok=True)
    (home / "state" / "http-token").write_text(f"{TOKEN}\n")
    _served.lifecycle.browsers = {"address": ADDRESS, "problem": ""}
    daemon.ready.contents["syn5", "data"] = daemon.ready.contents["syn5", "index"] = b"x"
    daemon.ready.names = {("syn5", "data"): "a #1.bam", ("syn5", "index"): "a #1.bai"}
    yield daemon
    _served.lifecycle.browsers = None


@pytest.fixture
def taken(listening, _served):
    """One whose address another program has."""
    _served.lifecycle.browsers = {"address": "", "problem": "127.0.0.1:1 cannot be listened on"}


class TestUrl:
    def test_url_of_a_file_holds_address_id_and_token(self, synd, listening):
        """By its id or its path in the mount; of its index on request."""
        assert f"{ADDRESS}/v1/data/syn5/a%20%231.bam?token={TOKEN}\n" == synd("url", "syn5").out
        assert (
            f"{ADDRESS}/v1/data/syn5/a%20%231.bam?token={TOKEN}\n"
            == synd("url", "/mnt/synapse/P/a").out
        )

        assert (
            f"{ADDRESS}/v1/index/syn5/a%20%231.bai?token={TOKEN}\n" == synd("url", "-i", "syn5").out
        )

    def test_url_with_raw_is_that_of_the_services_own_bytes(self, synd, listening):
        """Nothing is looked for: raw bytes need no preparing."""
        said = synd("url", "--raw", "syn7")

        assert (0, "") == (said.code, said.err)
        assert f"{ADDRESS}/v1/data/syn7?raw=true&token={TOKEN}\n" == said.out

    def test_url_as_json_has_both_addresses(self, synd, listening):
        """For programs that open a browser."""
        found = synd("url", "syn5", "--json").json

        assert ("syn5", True) == (found["entity"], found["ready"])
        assert (f"{ADDRESS}/v1/index/syn5/a%20%231.bai?token={TOKEN}") == found["index_url"]

    def test_url_of_what_is_not_prepared_says_so_beside_it(self, synd, listening):
        """The address is right all the same: the first request has it made."""
        listening.ready.contents["syn6", "data"] = {"id": "j"}
        said = synd("url", "syn6")

        assert 0 == said.code
        assert "/v1/data/syn6?" in said.out
        assert "synd prepare" in said.err

    def test_url_when_the_listener_is_off_says_how_to_turn_it_on(self, synd, daemon):
        """A setting is missing: exit 78."""
        said = synd("url", "syn5")

        assert (78, "") == (said.code, said.out)
        assert "synd config set http_listen" in said.err

    def test_url_when_the_address_was_taken_tells_that(self, synd, taken):
        """Nobody would answer there."""
        said = synd("url", "syn5")

        assert (78, "") == (said.code, said.out)
        assert "127.0.0.1:1 cannot be listened on" in said.err
        assert "off: 127.0.0.1:1" in synd("status").out
        assert "127.0.0.1:1 cannot" in str(synd("status", "--json").json["problems"])

    def test_url_when_the_token_is_gone_says_which_file(self, synd, listening, home):
        """Nothing else is printed."""
        (home / "state" / "http-token").unlink()
        said = synd("url", "syn5")

        assert (78, "") == (said.code, said.out)
        assert "http-token" in said.err

    def test_status_names_the_address_and_never_the_token(self, synd, listening):
        """What status says is copied into reports."""
        assert f"browsers   {ADDRESS}" in synd("status").out
        assert TOKEN not in synd("status", "--json").out


class TestBusy:
    @pytest.mark.parametrize("kind", ["QueueFull", "Draining"])
    def test_prepare_when_nothing_can_be_taken_fails_with_try_later(self, synd, daemon, kind):
        """Exit 75, the reason, and what to do."""
        from synd import errors

        daemon.ready.refusal = errors.by_name(kind)("already 1000 jobs wait", hint="try later")
        said = synd("prepare", "syn5")

        assert (75, "") == (said.code, said.out)
        assert "already 1000 jobs wait" in said.err
        assert "try later" in said.err

    def test_prepare_when_some_are_refused_tells_of_all_and_fails(self, synd, daemon):
        """What was taken goes on, and is told."""
        late: ready.NotTaken = {
            "path": "/mnt/synapse/P/b.bam", "type": "QueueFull", "reason": "already 2 jobs wait",
        }  # fmt: skip
        daemon.ready.refused = [late]
        said = synd("prepare", "syn5", "syn6")

        assert 75 == said.code
        assert "syn5: ready" in said.out
        assert "/mnt/synapse/P/b.bam: not taken, already 2 jobs wait" in said.out
        assert "no job for 1 file" in said.err


def test_why_tells_of_jobs_with_reason_mend_and_log(synd, daemon):
    """All that is needed to go on."""
    job: contract.WhyJob = {
        "id": "ab12", "kind": "preprocess", "state": "failed", "reason": "line 3 is no record",
        "mend": "mend the file", "failure": "INVALID_RECORD", "attempt": 1, "log": "synd logs ab12",
    }  # fmt: skip
    plain = daemon.why

    async def why(path):
        return {**await plain(path), "jobs": [job]}

    daemon.why = why
    said = synd("why", "syn5")

    assert 0 == said.code
    for text in (
        "preprocess job ab12: failed",
        "line 3 is no record",
        "mend the file",
        "synd logs ab12",
    ):
        assert text in said.out
    assert [job] == synd("why", "syn5", "--json").json["jobs"]
