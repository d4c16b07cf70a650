"""The attempt on a Dask worker without Dask: whom it believes, and when it gives up."""

from __future__ import annotations

import json
import queue
from pathlib import Path
from typing import Any

import pytest

from synd.jobs.failures import Failure
from synd.processors import remote
from synd.processors.remote import PROTOCOL, Attempt, Word, versions
from tests.support.genomics import FIXTURES, order

pytest.importorskip("fsspec", reason="fsspec is not installed (pip install 'synd[dask]')")
pytest.importorskip("psutil", reason="psutil is not installed (pip install 'synd[dask]')")

LEASE_S = 30.0


class Line:
    """Both ends of the line to the daemon."""

    def __init__(self) -> None:
        self.inbox: queue.SimpleQueue[Word] = queue.SimpleQueue()
        self.said: list[dict[str, Any]] = []

    def say(self, event: str, **values: object) -> None:
        self.said.append({"event": event, **values})

    def tell(self, **words: object) -> None:
        self.inbox.put(("told", words))

    def events(self, name: str) -> list[dict[str, Any]]:
        return [one for one in self.said if one["event"] == name]


def attempt(line: Line, scratch: Path, *, lease_s: float = LEASE_S, **told: object) -> Attempt:
    task = {"protocol": PROTOCOL, "versions": versions(), "job": "j1", "lease_s": lease_s, **told}
    return Attempt(task, line.inbox, line.say, scratch, "tcp://worker")


def begin(line: Line, tmp_path: Path, name: str) -> None:
    document = order(FIXTURES / name, tmp_path / "unused").document()
    line.tell(do="begin", store=str(tmp_path / "shared"), home="us/j1", document=document)


@pytest.mark.parametrize("told", [{"protocol": 0}, {"versions": [["bam_index", 999]]}])
def test_worker_of_another_version_when_asked_refuses(tmp_path: Path, told: dict[str, Any]) -> None:
    """What it made would be found under keys that lie."""
    line = Line()
    last = attempt(line, tmp_path, **told).live()

    assert Failure.TOOL_MISSING == last["failure"]
    assert "version" in last["message"]
    assert not line.said


def test_worker_that_nobody_gives_an_order_when_its_lease_ends_gives_up(tmp_path: Path) -> None:
    """The daemon that wanted it may be gone."""
    last = attempt(Line(), tmp_path, lease_s=0.05).live()

    assert Failure.LEASE_LOST == last["failure"]


def test_worker_that_is_told_to_end_before_it_begins_does_nothing(tmp_path: Path) -> None:
    """Nor does a beat make it begin."""
    line = Line()
    line.tell(do="beat")
    line.tell(do="end")
    last = attempt(line, tmp_path).live()

    assert Failure.CANCELLED == last["failure"]
    assert ["ready"] == [one["event"] for one in line.said]


def test_order_when_carried_out_leaves_files_in_the_store_alone(tmp_path: Path) -> None:
    """Each stage tells what it put there; the scratch folder is empty again."""
    line = Line()
    begin(line, tmp_path, "variants/unsorted.vcf")
    (tmp_path / "scratch").mkdir()
    one = attempt(line, tmp_path / "scratch")
    last = one.live()

    assert "done" == last["event"]
    assert ["fetch", "data", "index"] == [told["stage"] for told in one.stages]
    for told in one.stages[1:]:
        left = told["left"][told["file"]]
        assert told["size"] == (tmp_path / "shared" / left["key"]).stat().st_size
        assert told["digest"] == f"sha256:{left['sha256']}"
    assert [] == list((tmp_path / "scratch").iterdir())
    assert line.events("beat")


def test_order_that_is_taken_back_when_stages_are_done_leaves_nothing(tmp_path: Path) -> None:
    """Told to end with the order, it may have made some; the store is empty afterwards."""
    line = Line()
    begin(line, tmp_path, "variants/unsorted.vcf")
    line.tell(do="end")
    last = attempt(line, tmp_path / "scratch").live()

    assert Failure.CANCELLED == last["failure"]
    assert not (tmp_path / "shared" / "us" / "j1").exists()


def test_child_that_fails_always_is_told_with_its_class(tmp_path: Path) -> None:
    """In the child's own words."""
    line = Line()
    begin(line, tmp_path, "align/cut.bam")
    last = attempt(line, tmp_path / "scratch").live()

    assert ("error", Failure.SOURCE_TRUNCATED) == (last["event"], last["failure"])


def test_store_that_cannot_be_written_always_ends_the_attempt(tmp_path: Path) -> None:
    """As what it is: the source and the tools are well."""
    (tmp_path / "shared").write_text("a file, and no folder")
    line = Line()
    begin(line, tmp_path, "variants/unsorted.vcf")
    last = attempt(line, tmp_path / "scratch").live()

    assert Failure.STORE_UNAVAILABLE == last["failure"]


def test_words_for_an_attempt_that_is_not_here_are_told_as_unheard() -> None:
    """So that the daemon does not wait for it."""
    assert not remote.tell("no such nonce", json.dumps({"do": "end"}))
