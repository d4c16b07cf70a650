"""Pipes of real programs: any failing link fails the whole, and none is left behind."""

import errno
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.processors import pipeline
from synd.processors.pipeline import Ended, Outcome, Pipe, ReaderGone, environment, out_of
from tests.support.mounts import eventually

PYTHON = sys.executable


def script(text):
    """A program that runs a line of Python."""
    return [PYTHON, "-c", text]


def ended(name, status, said="", notices=()):
    return Ended(name, status, said, tuple(notices))


@pytest.mark.req("S1-62")
@pytest.mark.parametrize("bad", [0, 1, 2], ids=["first", "middle", "last"])
def test_pipe_when_one_link_fails_then_fails_and_names_it(tmp_path, bad):
    """A failure of the first, the middle or the last stage surfaces, though the others exit 0."""
    copy = "import sys; sys.stdout.buffer.write(sys.stdin.buffer.read())"
    fail = copy + "; sys.stderr.write('it broke here'); sys.exit(3)"
    names = ["one", "two", "three"]
    for name in names:
        (tmp_path / name).symlink_to(PYTHON)
    with Pipe(tmp_path) as pipe:
        reads, feed_fd = pipe.channel()
        for i, name in enumerate(names):
            mine, its = pipe.channel()
            pipe.start(
                [str(tmp_path / name), "-c", fail if i == bad else copy], reads=reads, writes=its
            )
            reads = mine
        out = pipe.consume(reads, lambda file: file.read())
        with pipe.feed(feed_fd) as feed:
            feed.write(b"text")
        outcome = pipe.finish()

    with pytest.raises(StageFailed, match=rf"{names[bad]} ended with status 3: it broke here") as e:
        outcome.check()
    assert e.value.failure == Failure.TOOL_FAILED
    assert out.result() == b"text"


@pytest.mark.req("S1-62")
def test_pipe_when_a_later_link_breaks_it_then_blames_that_and_not_the_echo(tmp_path):
    """SIGPIPE in an earlier stage is only an echo of the one that stopped reading."""
    with Pipe(tmp_path) as pipe:
        mine, its = pipe.channel()
        pipe.start(script("import os\nwhile True: os.write(1, b'x' * 65536)"), writes=its)
        pipe.start(script("import sys; sys.stdin.buffer.read(10); sys.exit(4)"), reads=mine)
        outcome = pipe.finish()

    assert outcome.ended[0].status != 0
    assert outcome.blamed is outcome.ended[1]
    assert outcome.ended[1].status == 4


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([("a", 0), ("b", 0)], None),
        ([("a", 1), ("b", 0)], "a"),
        ([("a", 1), ("b", 2)], "b"),
        ([("a", -13), ("b", 2), ("c", 0)], "b"),
        ([("a", -13), ("b", 0)], "a"),
        ([("a", 1), ("b", -13), ("c", 0)], "a"),
    ],
)
def test_blame_when_several_fail_then_is_the_last_on_its_own_account(statuses, expected):
    """The last stage that failed by itself; an echo only when there is nothing else."""
    outcome = Outcome(tuple(ended(name, status) for name, status in statuses))

    assert expected == (outcome.blamed.name if outcome.blamed else None)


def test_blame_when_the_disk_is_full_then_is_the_one_that_says_so():
    """What others complained about followed from it."""
    outcome = Outcome(
        (
            ended("sort", 2, "sort: write failed: s1: No space left on device"),
            ended("bgzip", 1, "it ended too early"),
        )
    )

    with pytest.raises(StageFailed) as failed:
        outcome.check()
    assert failed.value.failure == Failure.NO_SPACE
    assert "sort" in failed.value.message


def test_program_when_it_exits_0_but_named_an_error_then_has_failed():
    """htslib's `[E::` counts, whatever the status says; `[W::` does not."""
    good = Outcome((ended("tabix", 0, "[W::x] hm", ["[W::x] hm"]),))
    bad = Outcome((ended("tabix", 0, "[E::x] no", ["[E::x] no"]),))

    good.check()
    with pytest.raises(StageFailed, match=r"\[E::x\] no"):
        bad.check()


@pytest.mark.parametrize(
    ("said", "failure"),
    [
        ("bgzip: write failed: No space left on device", Failure.NO_SPACE),
        ("sort: Disk quota exceeded", Failure.NO_SPACE),
        ("sort: memory exhausted", Failure.OUT_OF_MEMORY),
        ("terminate called after throwing 'std::bad_alloc'", Failure.OUT_OF_MEMORY),
        ("who knows", Failure.TOOL_FAILED),
    ],
)
def test_failure_always_has_the_class_that_its_words_tell(said, failure):
    """Full disks and too little memory are told from other failures."""
    assert failure is ended("x", 1, said).failure()


def test_stderr_when_endless_then_its_end_and_first_notices_are_kept(tmp_path):
    """8 KiB from the end, the first notices, and no deadlock."""
    text = (
        "import sys\n"
        "sys.stderr.write('[E::first] it began\\n')\n"
        "for i in range(20000): sys.stderr.write('noise %d\\n' % i)\n"
        "sys.exit(1)"
    )
    outcome = pipeline.run(tmp_path, script(text))
    (one,) = outcome.ended

    assert len(one.said) <= pipeline.STDERR_KEPT
    assert one.said.endswith("noise 19999\n")
    assert one.complaints == ("[E::first] it began",)
    assert "[E::first]" in one.why()


def test_program_always_gets_an_environment_of_its_own(tmp_path, monkeypatch):
    """C collation, the work folder for temporary files, no secret of ours, no reference of the internet."""
    monkeypatch.setenv("SYNAPSE_AUTH_TOKEN", "secret")
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    data, outcome = pipeline.output(
        tmp_path, script("import os, json; print(json.dumps(dict(os.environ)))")
    )
    outcome.check()

    import json

    seen = json.loads(data)
    assert seen["LC_ALL"] == "C"
    assert seen["TMPDIR"] == str(tmp_path)
    assert seen["REF_PATH"].startswith(str(tmp_path))
    assert "SYNAPSE_AUTH_TOKEN" not in seen
    assert seen.items() >= environment(tmp_path).items()


def test_program_always_runs_in_the_work_folder_with_nothing_to_read(tmp_path):
    """Standard input is empty unless it is a pipe; no other descriptor is open."""
    text = "import os, sys; print(os.getcwd(), len(sys.stdin.read()), len(os.listdir('/proc/self/fd')))"
    data, outcome = pipeline.output(tmp_path, script(text))
    outcome.check()

    folder, read, descriptors = data.split()
    assert os.path.realpath(folder) == os.path.realpath(os.fsencode(tmp_path))
    assert read == b"0"
    # Three of its own, and that of the listing.
    assert int(descriptors) == 4


def test_program_when_missing_then_is_a_missing_tool(tmp_path):
    """A program that went away between the search and the start."""
    with pytest.raises(StageFailed, match="nowhere cannot be started") as failed:
        pipeline.run(tmp_path, [str(tmp_path / "nowhere")])

    assert failed.value.failure == Failure.TOOL_MISSING


def test_pipe_when_left_by_an_error_then_leaves_no_process(tmp_path):
    """A failure of our own code ends the programs around it."""
    started = []

    def broken():
        with Pipe(tmp_path) as pipe:
            reads, feed_fd = pipe.channel()
            started.append(pipe.start(script("import time; time.sleep(60)"), reads=reads))
            started.append(pipe.start(script("import time; time.sleep(60)")))
            with pipe.feed(feed_fd):
                raise KeyError("ours")

    with pytest.raises(KeyError):
        broken()

    assert [-signal.SIGKILL] * 2 == [one.process.returncode for one in started]


def test_pipe_when_killed_from_another_thread_then_finishes(tmp_path):
    """A pipe under way can be cancelled."""
    with Pipe(tmp_path) as pipe:
        pipe.start(script("import time; time.sleep(60)"))
        threading.Timer(0.05, pipe.kill).start()
        began = time.monotonic()
        outcome = pipe.finish()

    assert time.monotonic() - began < 30
    assert outcome.ended[0].status == -signal.SIGKILL
    assert "SIGKILL" in outcome.ended[0].why()


def test_feed_when_the_reader_has_gone_then_ends_quietly_and_is_told(tmp_path):
    """Code before a program stops; that something was not read is a failure even if all exit 0."""
    after = []
    with Pipe(tmp_path) as pipe:
        reads, feed_fd = pipe.channel()
        pipe.start(script("pass"), reads=reads)
        with pipe.feed(feed_fd) as feed:
            while True:
                feed.write(b"x" * 65536)
        after.append("went on")
        outcome = pipe.finish()

    assert after == ["went on"]
    with pytest.raises(StageFailed, match="before it had read everything"):
        outcome.check()
    reading, writing = os.pipe()
    os.close(reading)
    try:
        with pytest.raises(ReaderGone):
            pipeline.Feed(writing).write(b"x")
    finally:
        os.close(writing)


def test_consumer_when_it_cannot_write_then_its_error_comes_first(tmp_path):
    """A full disk at the end of the pipe is named, not the broken pipes that follow from it."""

    def full(file):
        file.read(1)
        raise OSError(errno.ENOSPC, "No space left on device")

    with Pipe(tmp_path) as pipe:
        mine, its = pipe.channel()
        pipe.start(script("import os\nwhile True: os.write(1, b'x' * 65536)"), writes=its)
        pipe.consume(mine, full)
        with pytest.raises(StageFailed) as failed:
            pipe.finish()

    assert failed.value.failure == Failure.NO_SPACE


@pytest.mark.parametrize(
    ("number", "failure"),
    [
        (errno.ENOSPC, Failure.NO_SPACE),
        (errno.EDQUOT, Failure.NO_SPACE),
        (errno.ENOMEM, Failure.OUT_OF_MEMORY),
        (errno.EAGAIN, Failure.TOOL_FAILED),
        (errno.EIO, Failure.INTERNAL),
    ],
)
def test_error_of_the_system_always_has_a_class(number, failure):
    """What errno means for a job."""
    assert failure == out_of(OSError(number, os.strerror(number)), "x").failure


def test_program_when_the_starter_is_killed_then_dies_with_it(tmp_path):
    """`kill -9` of a worker leaves no program of its pipe."""
    text = (
        "import sys, pathlib\n"
        "from synd.processors.pipeline import Pipe\n"
        "with Pipe(pathlib.Path(sys.argv[1])) as pipe:\n"
        "    one = pipe.start([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "    print(one.process.pid, flush=True)\n"
        "    pipe.finish()\n"
    )
    import subprocess

    starter = subprocess.Popen([PYTHON, "-c", text, str(tmp_path)], stdout=subprocess.PIPE)
    with starter:
        assert starter.stdout is not None
        child = int(starter.stdout.readline())
        starter.kill()
        starter.wait()

        def gone():
            try:
                state = Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                return True
            return state in "ZX"

        assert eventually(gone, what="the end of the program")
