"""`synd prepare`: what becomes of many files, some of which cannot be prepared."""

from __future__ import annotations

import pytest

from synd.control import ready
from synd.errors import StageFailed

PAGE: ready.NotPrepared = {
    "path": "/mnt/synapse/P/page.bam",
    "failure": "FORMAT_MISMATCH",
    "reason": "it is an HTML page",
}
CUT: ready.NotPrepared = {
    "path": "/mnt/synapse/P/cut.bam",
    "failure": "SOURCE_TRUNCATED",
    "reason": "the file was cut",
}


@pytest.fixture
def three(daemon):
    """Three jobs: the first fails, the others complete."""
    jobs = [daemon._made("preprocess", name) for name in ("a.bed", "b.bed", "c.bed")]
    jobs[0]["state"] = "failed"
    jobs[0]["problem"] = StageFailed("line 2 is bad", failure="INVALID_RECORD").problem()
    daemon.ready.jobs = jobs
    return jobs


class TestSome:
    def test_prepare_when_some_cannot_be_names_each_of_them(self, synd, daemon):
        """With the reason; the exit code is that of the first."""
        daemon.ready.failed = [PAGE, CUT]
        said = synd("prepare", "syn5")

        assert 65 == said.code
        assert "syn5: ready" in said.out
        assert "page.bam: cannot be prepared, it is an HTML page" in said.out
        assert "cut.bam: cannot be prepared, the file was cut" in said.out
        assert "(and 1 more)" in said.err

    def test_prepare_when_some_cannot_be_prints_one_object(self, synd, daemon):
        """A script reads it whole: what is ready beside the error."""
        daemon.ready.failed = [PAGE]
        said = synd("prepare", "syn5", "--json")

        assert 65 == said.code
        assert ["syn5"] == said.json["ready"]
        assert [PAGE] == said.json["failed"]
        assert ("StageFailed", "FORMAT_MISMATCH") == (
            said.json["error"]["type"],
            said.json["error"]["failure"],
        )

    def test_prepare_when_a_job_fails_waits_for_the_others(self, synd, daemon, three):
        """One bad file of a folder leaves the end of all others known."""
        said = synd("prepare", "--wait", "syn5", "--json")

        assert 65 == said.code
        assert ["failed", "completed", "completed"] == [j["state"] for j in said.json["jobs"]]
        assert "INVALID_RECORD" == said.json["error"]["failure"]
        assert "a.bed: line 2 is bad" == said.json["error"]["title"]

    def test_prepare_when_a_job_fails_says_why_beside_the_others(self, synd, daemon, three):
        """For people: a line for each."""
        said = synd("prepare", "--wait", "syn5")

        assert 65 == said.code
        assert "failed: line 2 is bad" in said.out
        assert "c.bed: ready" in said.out
