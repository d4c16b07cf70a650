"""Worker processes: what they are given, what they say, and that nothing of them is left whatever happens."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from synd.errors import StageFailed
from synd.ids import JobId
from synd.jobs.failures import Failure
from synd.jobs.model import Job, JobState
from synd.processors.limits import MemoryGroup
from syndd.schedule import pool as module
from syndd.schedule.joblogs import JobLogs
from syndd.schedule.pool import Pool, lines
from tests.support import stub_worker

F = Failure
STUB = (sys.executable, "-P", "-B", stub_worker.__file__)
ID = JobId("0123456789ab")
MIB = 1 << 20
PATIENCE_S = 20.0


class FakeRun:
    """Meets `Run` for a pool: keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[int, int | None, str]] = []
        self.stages: list[str] = []
        self.signs = 0
        self.why = None
        self.job = Job(ID, "preprocess", "x", {}, JobState.RUNNING, 1)

    def alive(self) -> None:
        self.signs += 1

    def progress(self, done: int, total: int | None, note: str = "", *, stage: str = "") -> None:
        self.told.append((done, total, stage))

    async def stage_done(self, stage: str) -> None:
        self.stages.append(stage)


@pytest.fixture
def pool(tmp_path: Path) -> Pool:
    found = Pool(tmp_path / "work", JobLogs(tmp_path / "jobs"), STUB, term_s=0.5, sample_s=0.05)
    found.clear()
    return found


@pytest.fixture
def run() -> FakeRun:
    return FakeRun()


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """After every test: no process of a job, no folder."""
    yield
    assert [] == processes(tmp_path)
    work = tmp_path / "work"
    assert not work.exists() or [] == list(work.iterdir())


def processes(tmp_path: Path) -> list[int]:
    """Those that carry the mark of this test's work folders."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            marked = f"{module.MARK}={tmp_path}/".encode() in (folder / "environ").read_bytes()
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if marked and state not in "ZX":
            found.append(int(folder.name))
    return found


def go(pool: Pool, run: FakeRun, *steps: list[object], **more: object) -> dict[str, object]:
    """Runs a stub through these steps; the `done` event."""

    async def live() -> dict[str, object]:
        async with asyncio.timeout(PATIENCE_S):
            return await pool.run(ID, {"steps": list(steps)}, run, **more)

    return asyncio.run(live())


def log_of(pool: Pool) -> str:
    return pool.logs.read(ID)[0]


async def come(check: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not check():  # noqa: ASYNC110 - what is waited for is a file or a process
            await asyncio.sleep(0.005)


async def cut(
    pool: Pool, run: FakeRun, ready: Callable[[], object], *steps: list[object],
    then: Callable[[], Awaitable[None]] | None = None,
) -> BaseException | None:  # fmt: skip
    """Starts a stub, cancels it once `ready`; what came of it."""
    task = asyncio.create_task(pool.run(ID, {"steps": list(steps)}, run))
    await come(lambda: ready() or task.done())
    if then is not None:
        await then()
    else:
        task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE_S)
    if task.cancelled():
        return asyncio.CancelledError()
    return task.exception()


class TestStart:
    @pytest.mark.req("S1-04")
    def test_worker_has_a_session_a_folder_and_low_priority_and_no_secrets(
        self, pool, run, tmp_path, monkeypatch
    ):
        """And the document as it was given."""
        monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "secret")
        monkeypatch.setenv("NOTIFY_SOCKET", "/x")
        go(pool, run, ["tell", str(tmp_path / "facts")])
        facts = json.loads((tmp_path / "facts").read_text())
        folder = str(pool.folder(ID))

        assert facts["pid"] == facts["session"] != os.getsid(0)
        assert facts["nice"] == min(19, os.nice(0) + 10)
        assert facts["oom"] == 500
        assert facts["cwd"] == facts["environ"]["TMPDIR"] == folder
        assert "C" == facts["environ"]["LC_ALL"]
        assert not {"SYNAPSE_AUTH_TOKEN", "NOTIFY_SOCKET"} & set(facts["environ"])
        document = facts["document"]
        assert (ID, folder, None) == (
            document["job"], document["work_dir"], document["memory_group"],
        )  # fmt: skip

    def test_document_larger_than_a_pipe_arrives_whole(self, pool, run, tmp_path):
        """While the worker reads."""
        text = "x" * (1 << 20)
        go(pool, run, ["tell", str(tmp_path / "facts")], ["print", text])

        document = json.loads((tmp_path / "facts").read_text())["document"]
        assert text == document["steps"][1][1]

    def test_program_that_does_not_read_or_is_not_there_is_a_failure_of_the_job(
        self, tmp_path, run
    ):
        """Neither hangs."""
        for program in (["true"], ["/no/such/program"]):
            pool = Pool(tmp_path / "work", JobLogs(tmp_path / "jobs"), program)
            with pytest.raises(StageFailed) as told:
                go(pool, run, ["print", "x" * (1 << 20)])
            assert F.WORKER_DIED == told.value.failure


class TestWords:
    def test_events_cross_the_pipe_in_order(self, pool, run):
        """Progress, stages, and the last word with all its values."""
        done = go(
            pool, run,
            ["say", "progress", {"stage": "fetch", "bytes": 5, "of": 10}],
            ["say", "stage_done", {"stage": "fetch"}],
            ["say", "progress", {"stage": "data", "bytes": 7, "of": None}],
            ["say", "progress", {"stage": "data", "bytes": "many", "of": -1}],
            ["say", "something_new", {}],
        )  # fmt: skip

        assert {"event": "done", "format": "bed"} == done
        assert [(5, 10, "fetch"), (7, None, "data"), (0, None, "data")] == run.told
        assert ["fetch"] == run.stages

    def test_stage_is_handed_over_while_its_file_is_there(self, pool, run, tmp_path):
        """Who takes it may link it; the worker goes on meanwhile."""
        taken = tmp_path / "taken"

        async def on_stage(event) -> None:
            assert "data" == event["stage"]
            os.link(pool.folder(ID) / event["file"], taken)

        go(
            pool, run,
            ["write", "data.gz", "bytes"],
            ["say", "stage_done", {"stage": "data", "file": "data.gz"}],
            on_stage=on_stage,
        )  # fmt: skip

        assert "bytes" == taken.read_text()

    def test_stage_that_cannot_be_taken_ends_the_worker(self, pool, run):
        """The error is the caller's own."""

        async def on_stage(event) -> None:
            raise KeyError(event["stage"])

        with pytest.raises(KeyError, match="data"):
            go(
                pool, run, ["child"], ["say", "stage_done", {"stage": "data"}],
                ["wait", "/never"], on_stage=on_stage,
            )  # fmt: skip

    def test_what_is_no_event_is_logged_and_not_parsed(self, pool, run):
        """Whatever a library prints, however long."""
        go(
            pool, run,
            ["print", "hello from a library"], ["print", "[1, 2]"], ["print", '{"event": 5}'],
            ["print", "x" * (3 * MIB)], ["say", "progress", {"bytes": 1}],
        )  # fmt: skip

        assert "said: hello from a library" in log_of(pool)
        assert "said: [1, 2]" in log_of(pool)
        assert [(1, None, "")] == run.told

    def test_log_keeps_what_it_said_without_tokens_and_cursor_movements(self, pool, run):
        """Safe to be shown at a terminal and to others."""
        go(
            pool, run,
            ["stderr", "GET https://x/y?X-Amz-Signature=abcdef\n\x1b[2Jclear\n"],
        )  # fmt: skip
        text = log_of(pool)

        assert "X-Amz-Signature=[hidden]" in text
        assert "\\x1b[2Jclear" in text
        assert "started, process" in text
        assert text.rstrip().endswith("done")

    def test_log_is_cut_at_its_bound_and_tells_the_end_nevertheless(self, pool, run, monkeypatch):
        """A program in a loop does not fill the disk."""
        monkeypatch.setattr("syndd.schedule.joblogs.MOST_BYTES", 100_000)
        go(pool, run, ["stderr", "x" * MIB])

        assert pool.logs.path(ID).stat().st_size < 300_000
        assert "not kept" in pool.logs.path(ID).read_text()
        assert pool.logs.path(ID).read_text().rstrip().endswith("done")


class TestEnds:
    def test_error_event_is_the_failure_with_its_line(self, pool, run):
        """As the worker says it, without paths."""
        with pytest.raises(StageFailed) as told:
            go(
                pool, run,
                ["say", "error", {
                    "failure": "INVALID_RECORD", "message": f"in {pool.folder(ID)}/src: bad",
                    "bad_line": 7, "hint": "mend it",
                }],
                ["exit", 1],
            )  # fmt: skip

        assert (F.INVALID_RECORD, 7, "mend it") == (
            told.value.failure, told.value.bad_line, told.value.hint,
        )  # fmt: skip
        assert "in src: bad" == told.value.message
        assert "failed: in src: bad" in log_of(pool)

    @pytest.mark.parametrize(
        ("steps", "failure", "text"),
        [
            ([["die", signal.SIGKILL]], F.WORKER_DIED, "SIGKILL"),
            ([["stderr", "a\nreal reason\n"], ["die", signal.SIGSEGV]], F.WORKER_DIED, "real reason"),
            ([["exit", 3]], F.WORKER_DIED, "exit status 3"),
            ([["exit", 0]], F.WORKER_DIED, "exit status 0"),
            ([["say", "done", {}], ["die", signal.SIGABRT]], F.WORKER_DIED, "SIGABRT"),
            ([["say", "error", {"failure": "FROM_TOMORROW"}]], F.INTERNAL, "without saying why"),
        ],
        ids=["kill", "crash", "status", "no word", "crash at the end", "unknown class"],
    )  # fmt: skip
    def test_end_without_a_good_word_is_classified(self, pool, run, steps, failure, text):
        """With how it ended, and what it said last."""
        with pytest.raises(StageFailed, match=text) as told:
            go(pool, run, ["child"], *steps)

        assert failure == told.value.failure

    def test_kill_of_one_that_had_reached_its_memory_cap_is_out_of_memory(self, pool, run):
        """By the peak that was seen."""
        with pytest.raises(StageFailed) as told:
            go(
                pool, run, ["memory", 64 * MIB], ["work", 0.4], ["die", signal.SIGKILL],
                memory_bytes=64 * MIB,
            )  # fmt: skip

        assert F.OUT_OF_MEMORY == told.value.failure

    def test_kill_that_the_control_group_counted_is_out_of_memory(self, tmp_path, run):
        """The kernel's own word; the group goes with the job, and the worker is told of it."""
        made: list[tuple[str, int]] = []

        def group(name: str, limit_bytes: int) -> MemoryGroup:
            made.append((name, limit_bytes))
            folder = tmp_path / "group"
            folder.mkdir()
            (folder / "memory.events").write_text("low 0\noom 1\noom_kill 1\n")
            return MemoryGroup(folder)

        pool = Pool(tmp_path / "work", JobLogs(tmp_path / "jobs"), STUB, group=group)
        with pytest.raises(StageFailed) as told:
            go(
                pool, run, ["tell", str(tmp_path / "facts")], ["die", signal.SIGKILL],
                memory_bytes=MIB,
            )  # fmt: skip

        assert F.OUT_OF_MEMORY == told.value.failure
        assert [(ID, MIB)] == made
        document = json.loads((tmp_path / "facts").read_text())["document"]
        assert str(tmp_path / "group") == document["memory_group"]

    def test_worker_that_lingers_after_its_last_word_is_ended(self, pool, run, monkeypatch):
        """Its work is done all the same."""
        monkeypatch.setattr(module, "LAST_WORD_S", 0.2)
        done = go(pool, run, ["say", "done", {"n": 1}], ["deaf"], ["wait", "/never"])

        assert 1 == done["n"]

    @pytest.mark.req("S1-40")
    @pytest.mark.parametrize("deaf", [False, True])
    def test_cancel_ends_worker_and_helpers_and_removes_the_folder(self, pool, run, tmp_path, deaf):
        """By asking first, by force then."""
        mark = tmp_path / "there"
        steps = [["deaf"]] if deaf else []
        steps += [["child"], ["write", "half", "x"], ["tell", str(mark)], ["wait", "/never"]]
        error = asyncio.run(cut(pool, run, mark.exists, *steps))

        assert isinstance(error, asyncio.CancelledError)
        assert "ended: the daemon stopped" in log_of(pool)

    @pytest.mark.req("S1-40")
    def test_folder_that_was_locked_is_removed_too(self, pool, run):
        """Whatever a program did to its modes."""

        async def on_stage(_event) -> None:
            deep = pool.folder(ID) / "a" / "b"
            deep.mkdir(parents=True)
            (deep / "c").write_text("x")
            deep.chmod(0)
            (pool.folder(ID) / "a").chmod(0o500)

        go(pool, run, ["say", "stage_done", {"stage": "data"}], on_stage=on_stage)

        assert not pool.folder(ID).exists()

    def test_kill_of_the_worker_by_anybody_ends_its_helpers(self, pool, run, tmp_path):
        """Nothing outlives its job."""
        mark = tmp_path / "there"

        async def kill() -> None:
            os.kill(json.loads(mark.read_text())["pid"], signal.SIGKILL)

        error = asyncio.run(
            cut(pool, run, mark.exists, ["child"], ["tell", str(mark)], ["wait", "/never"], then=kill)
        )  # fmt: skip

        assert isinstance(error, StageFailed)
        assert F.WORKER_DIED == error.failure


class TestLife:
    def test_bytes_that_move_are_signs_of_life(self, pool, run):
        """A sort says nothing for minutes."""
        go(pool, run, ["nap", 0.6])
        napping = run.signs
        run.signs = 0
        go(pool, run, ["work", 0.6])

        assert run.signs > napping + 3

    def test_start_ends_and_removes_what_an_earlier_life_left(self, pool, run, tmp_path):
        """Processes by their mark, folders and logs by their names."""
        import subprocess

        left = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(600)"],
            env=os.environ | {module.MARK: str(pool.folder("dead"))},
        )
        other = subprocess.Popen(
            [sys.executable, "-c", "input()"], stdin=subprocess.PIPE,
            env=os.environ | {module.MARK: str(tmp_path / "elsewhere" / "dead")},
        )  # fmt: skip
        (pool.folder("dead") / "a").mkdir(parents=True)
        (pool.work / "file").write_text("x")
        asyncio.run(come(lambda: len(processes(tmp_path)) == 2))
        pool.clear()

        assert -signal.SIGKILL == left.wait(PATIENCE_S)
        assert other.poll() is None
        other.communicate(b"\n", timeout=PATIENCE_S)
        assert [] == list(pool.work.iterdir())


class TestLogs:
    def test_log_is_read_on_from_where_one_was(self, tmp_path):
        """In pieces of whole lines; of a job without a log there is nothing."""
        logs = JobLogs(tmp_path)
        assert ("", 0) == logs.read(ID)
        with logs.open(ID) as said:
            said.raw(b"one\ntwo\n")
            text, on = logs.read(ID)
            assert "one\ntwo\n" == text
            said.raw(b"three\n")
            assert ("three\n", on + 6) == logs.read(ID, on)
            said.raw(b"x" * 99 + b"\n" + (b"y" * 1023 + b"\n") * 600)
        pieces, at = [], 0
        while True:
            text, at = logs.read(ID, at)
            if not text:
                break
            pieces.append(text)
        assert len(pieces) > 2
        assert all(piece.endswith("\n") for piece in pieces)
        assert logs.path(ID).read_text() == "".join(pieces)

    def test_log_goes_with_its_row(self, tmp_path):
        """By name, and all whose rows are gone at the start."""
        logs = JobLogs(tmp_path)
        for job in "abc":
            logs.open(job).close()
        logs.remove(["a", "zz"])
        logs.keep_only(["c"])

        assert ["c.log"] == [path.name for path in tmp_path.iterdir()]

    @pytest.mark.parametrize("wrong", ["", "../x", "a/b", "A", "a\n"])
    def test_log_of_what_is_no_id_is_not_found(self, tmp_path, wrong):
        """No path comes from outside."""
        from synd.errors import NotFound

        with pytest.raises(NotFound):
            JobLogs(tmp_path).path(wrong)


def test_lines_that_are_too_long_give_their_beginning_only():
    """Memory is bounded whatever a program says."""

    async def live() -> list[bytes]:
        stream = asyncio.StreamReader()
        stream.feed_data(b"a\n" + b"b" * 200_000 + b"\nc\n\nd")
        stream.feed_eof()
        return [line async for line in lines(stream, 10)]

    found = asyncio.run(live())
    assert [b"a", b"b" * 10, b"c", b"", b"d"] == found
