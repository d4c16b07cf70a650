"""The worker process: one document in, one object a line out, nothing left behind however it ends."""

import contextlib
import hashlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from synd.jobs.failures import Failure
from synd.processors import limits
from synd.processors.base import ArtifactKind, Caps, Stored, Tools
from synd.processors.ending import failure_of_exit
from tests.support import genomics
from tests.support.genomics import case, run_worker
from tests.support.mounts import eventually

CHAINS = [pytest.param(one, marks=pytest.mark.tools) for one in (Tools.NATIVE, Tools.BUILTIN)]
BED = "variants/sorted_plain.vcf"


def order_of(file, folder, tools=Tools.AUTO, **caps):
    genomics.need(tools)
    return genomics.order(case(file).path, folder, tools=tools, **caps)


@contextlib.contextmanager
def started(order, *, path="", **environment):
    """A worker under way, in a group of its own, which is ended with all in it."""
    variables = {**os.environ, **environment}
    if path:
        variables["PATH"] = f"{path}{os.pathsep}{variables['PATH']}"
    worker = subprocess.Popen(
        genomics.worker_command(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        start_new_session=True,
    )
    with worker:
        assert worker.stdin is not None
        worker.stdin.write(json.dumps(order.document()))
        worker.stdin.close()
        worker.stdin = None
        try:
            yield worker
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)


def nobody_left(group):
    return eventually(lambda: not list(genomics.children_of(group)), what="the group's end")


@pytest.fixture
def sleeper(tmp_path):
    """A folder for PATH with a samtools that never ends, and tells that it was started."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "samtools"
    program.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, sys, time\n"
        "if '--version' in sys.argv: raise SystemExit\n"
        "pathlib.Path('began').touch()\n"
        "time.sleep(120)\n"
    )
    program.chmod(0o755)
    return folder


@pytest.mark.req("S1-69")
@pytest.mark.parametrize("tools", CHAINS)
@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("align/unsorted.bam", ".bai"),
        ("align/unsorted.sam", ".bai"),
        ("variants/unsorted.vcf", ".tbi"),
        ("intervals/unsorted.bed", ".tbi"),
        ("intervals/peaks.broadPeak.gz", ".tbi"),
        ("annotation/genes.gff3", ".tbi"),
        ("annotation/genes.gtf", ".tbi"),
    ],
)
def test_worker_always_tells_each_stage_and_then_the_end(tmp_path, tools, file, kind):
    """A real process for every format: events in order, files in its folder, digests as told."""
    folder = tmp_path / "work"
    run = run_worker(order_of(file, folder, tools))
    data, index = run.stage("data"), run.stage("index")

    assert run.status == 0, run.stderr
    named = [(one["event"], one.get("stage")) for one in run.events if one["event"] != "progress"]
    assert named == [
        ("started", None),
        ("stage_done", "fetch"),
        ("stage_done", "data"),
        ("stage_done", "index"),
        ("done", None),
    ]
    assert {one["job"] for one in run.events} == {"job-1"}
    assert index["suffix"] == kind
    assert index["of_digest"] == data["digest"]
    for one in (data, index):
        content = (folder / one["file"]).read_bytes()
        assert one["digest"] == f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert one["size"] == len(content)
        assert one["toolchain"]
    assert data["format"] == run.last["format"] == case(file).detected_format
    _look_inside(folder / data["file"], file)


def _look_inside(path, file):
    import pysam

    if file.startswith("align/"):
        with pysam.AlignmentFile(str(path)) as made:
            assert made.header.to_dict()["HD"]["SO"] == "coordinate"
            assert not made.header.to_dict().get("PG")
        return
    lines = genomics.lines(path)
    if file.startswith("variants/"):
        assert lines[0].startswith(b"##fileformat=VCF")
        assert lines[13].startswith(b"#CHROM")
        assert not any(line.startswith(b"#") for line in lines[14:])
    if file.endswith(".gff3"):
        assert any(b"ID=" in line and b"Parent=" in line for line in lines)


@pytest.mark.parametrize("tools", CHAINS)
def test_worker_when_the_source_is_bad_then_tells_class_line_and_no_path(tmp_path, tools):
    """One `error` event, exit 1, and no folder of the machine in its text."""
    path = tmp_path / "a bad one.bed"
    path.write_text("chr1\t1\t2\nchr1\t5\tx\x07y\n")
    genomics.need(tools)
    run = run_worker(genomics.order(path, tmp_path / "work", tools=tools))

    assert run.status == 1
    assert run.last["event"] == "error"
    assert run.last["failure"] == Failure.INVALID_RECORD
    assert run.last["bad_line"] == 2
    assert str(tmp_path) not in run.last["message"]
    assert "\\x07" in run.last["message"]
    assert [one["event"] for one in run.events].count("error") == 1


@pytest.mark.tools
def test_worker_when_a_program_fails_then_its_words_hold_no_path(tmp_path):
    """What samtools says of a file is told without the folder it lies in."""
    genomics.need(Tools.NATIVE)
    path = tmp_path / "x.bam"
    data = bytearray(case("align/sorted.bam").path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    run = run_worker(genomics.order(path, tmp_path / "work", tools=Tools.NATIVE))

    assert run.last["failure"] == Failure.SOURCE_CORRUPT
    assert "/" not in run.last["message"].replace("//", "")
    assert len(run.last["message"].encode()) <= 1024


def test_worker_when_nothing_is_to_be_made_then_is_done_at_once(tmp_path):
    """A pass-through format costs no stage but the look at its bytes."""
    run = run_worker(order_of("tables/table.csv", tmp_path / "work"))

    assert run.status == 0
    assert run.last["work"] == "none"
    assert run.last["processor"] == "passthrough"
    assert not [one for one in run.events if one.get("stage") in ("data", "index")]


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ("{}", "no source"),
        ("not JSON", "JSONDecodeError"),
        ('{"job": "x", "source": 5}', "not as it must be"),
    ],
)
def test_worker_when_the_document_is_bad_then_says_what_is_wrong(document, text):
    """An error event, not a traceback alone."""
    done = subprocess.run(
        genomics.worker_command(), input=document, capture_output=True, text=True, timeout=60
    )
    told = json.loads(done.stdout)

    assert done.returncode == 1
    assert told["event"] == "error"
    assert told["failure"] == Failure.INTERNAL
    assert text in told["message"]


@pytest.mark.tools
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_worker_when_asked_to_end_then_ends_its_programs_and_says_so(tmp_path, sleeper, number):
    """SIGTERM to the worker alone ends everything; the job was cancelled."""
    order = order_of("align/unsorted.bam", tmp_path / "work", Tools.NATIVE)
    with started(order, path=sleeper) as worker:
        eventually((tmp_path / "work" / "began").exists, what="the program's start")
        assert len(list(genomics.children_of(worker.pid))) >= 2
        worker.send_signal(number)
        out, _ = worker.communicate(timeout=30)

        assert json.loads(out.splitlines()[-1])["failure"] == Failure.CANCELLED
        assert worker.returncode == 1
        assert nobody_left(worker.pid)


@pytest.mark.tools
def test_worker_when_killed_then_its_programs_die_with_it(tmp_path, sleeper):
    """SIGKILL of the worker leaves no process, and no word: that is its death."""
    order = order_of("align/unsorted.bam", tmp_path / "work", Tools.NATIVE)
    with started(order, path=sleeper) as worker:
        eventually((tmp_path / "work" / "began").exists, what="the program's start")
        worker.kill()
        out, _ = worker.communicate(timeout=30)

        assert nobody_left(worker.pid)
        assert "error" not in out
        assert failure_of_exit(worker.returncode) is Failure.WORKER_DIED


@pytest.mark.tools
def test_worker_when_its_starter_is_killed_then_dies_too(tmp_path, sleeper):
    """Nothing outlives the daemon, however that ends."""
    order = order_of("align/unsorted.bam", tmp_path / "work", Tools.NATIVE)
    text = (
        "import json, subprocess, sys\n"
        "w = subprocess.Popen([sys.executable, '-m', 'synd.processors.worker'],"
        " stdin=subprocess.PIPE, start_new_session=True)\n"
        "w.stdin.write(sys.stdin.buffer.read()); w.stdin.close()\n"
        "print(w.pid, file=sys.stderr, flush=True)\n"
        "w.wait()\n"
    )
    environment = {**os.environ, "PATH": f"{sleeper}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        [sys.executable, "-c", text],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    ) as starter:
        assert starter.stdin is not None
        assert starter.stderr is not None
        starter.stdin.write(json.dumps(order.document()).encode())
        starter.stdin.close()
        group = int(starter.stderr.readline())
        try:
            eventually((tmp_path / "work" / "began").exists, what="the program's start")
            starter.kill()

            assert nobody_left(group)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)


@pytest.mark.tools
def test_worker_always_is_last_in_line_and_leads_its_session(tmp_path, sleeper):
    """Nice 10 for it and its programs; a session of its own."""
    order = order_of("align/unsorted.bam", tmp_path / "work", Tools.NATIVE)
    with started(order, path=sleeper) as worker:
        eventually((tmp_path / "work" / "began").exists, what="the program's start")
        group = list(genomics.children_of(worker.pid))

        assert worker.pid in group
        expected = max(limits.NICE, os.getpriority(os.PRIO_PROCESS, 0))
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in group} == {expected}
        assert {os.getsid(pid) for pid in group} == {worker.pid}


@pytest.mark.tools
def test_worker_when_nobody_listens_then_ends(tmp_path, sleeper):
    """When the reader of its events has gone, the work has no purpose."""
    order = order_of("align/unsorted.sam", tmp_path / "work", Tools.NATIVE)
    with started(order, path=sleeper) as worker:
        assert worker.stdout is not None
        worker.stdout.close()
        worker.stdout = None
        worker.wait(timeout=60)

        assert nobody_left(worker.pid)


POINTS = [
    f"worker.{stage}.{edge}"
    for stage in ("fetch", "data", "index")
    for edge in ("begin", "made", "told")
]


@pytest.mark.crash
@pytest.mark.tools
@pytest.mark.req("S1-23", "S1-71")
@pytest.mark.parametrize("file", ["align/unsorted.bam", "variants/unsorted.vcf"])
@pytest.mark.parametrize("point", POINTS)
def test_worker_when_killed_at_an_edge_then_the_next_goes_on_from_what_was_told(
    tmp_path, file, point
):
    """A stage that was told is not made again; one that was not is; the end is the same."""
    order = order_of(file, tmp_path / "one")
    whole = run_worker(order_of(file, tmp_path / "whole"))
    killed = run_worker(order, SYND_CRASH_AT=point)

    assert killed.status == -signal.SIGKILL
    assert "done" not in [one["event"] for one in killed.events]
    told = [one for one in killed.events if one["event"] == "stage_done"]
    stored = {}
    for one in told:
        if one["stage"] != "fetch":
            stored[ArtifactKind(one["kind"])] = Stored(
                one["digest"],
                one["size"],
                tmp_path / "one" / one["file"],
                one["records"],
                one["format"],
            )
    again = run_worker(
        replace(order, folder=tmp_path / "one", stored=stored)
        if not stored
        else replace(order_of(file, tmp_path / "two"), stored=stored)
    )

    assert again.status == 0, again.stderr
    made = [one["stage"] for one in again.events if one["event"] == "stage_done"]
    had = {str(kind) for kind in stored}
    assert made == [
        one for one in ("fetch", "data", "index") if not had or one not in ("fetch", *had)
    ]
    for stage in made:
        if stage != "fetch":
            assert again.stage(stage)["digest"] == whole.stage(stage)["digest"]


# Downloads.


class _Site(http.server.BaseHTTPRequestHandler):
    """Gives a file, or whatever else it is told to."""

    files: dict[str, bytes]
    seen: list[dict[str, str]]

    def do_GET(self):
        self.seen.append(dict(self.headers))
        if self.path.startswith("/status/"):
            self.send_error(int(self.path.rpartition("/")[2]))
            return
        if self.path == "/elsewhere":
            self.send_response(302)
            port = self.server.server_address[1]
            self.send_header("Location", f"http://localhost:{port}/file")
            self.end_headers()
            return
        data = self.files[self.path]
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.path == "/slow":
            self.wfile.write(data[:1000])
            self.wfile.flush()
            self.server.release.wait(60)
            return
        self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def site():
    handler = type("Site", (_Site,), {"files": {}, "seen": []})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.release = threading.Event()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    server.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.handler = handler
    yield server
    server.release.set()
    server.shutdown()
    server.server_close()
    thread.join()


def remote(site, folder, place="/file", file="tables/table.csv"):
    site.handler.files[place] = case(file).path.read_bytes()
    order = order_of(file, folder)
    return replace(order, path=None, url=site.url + place, headers={"X-Right": "yes"})


@pytest.mark.req("S1-46")
def test_source_when_elsewhere_then_is_downloaded_and_checked(tmp_path, site):
    """The bytes come into the work folder, with the headers that were given."""
    run = run_worker(remote(site, tmp_path / "w"))

    assert run.last["event"] == "done", run.stderr
    assert (tmp_path / "w" / "source").read_bytes() == case("tables/table.csv").path.read_bytes()
    assert site.handler.seen[0]["X-Right"] == "yes"


@pytest.mark.tools
def test_source_when_downloaded_then_is_processed(tmp_path, site):
    """Fetch, data and index of a file that lies elsewhere."""
    run = run_worker(remote(site, tmp_path / "w", file="variants/unsorted.vcf"))

    assert run.last["event"] == "done", run.stderr
    assert run.stage("index")["records"] == 1500


def test_headers_when_redirected_to_another_place_then_are_not_sent(tmp_path, site):
    """A right for one place is not shown to another."""
    order = remote(site, tmp_path / "w")
    run = run_worker(replace(order, url=site.url + "/elsewhere"))

    assert run.last["event"] == "done", run.stderr
    assert ["X-Right" in one for one in site.handler.seen] == [True, False]


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (401, Failure.SOURCE_FORBIDDEN),
        (403, Failure.SOURCE_FORBIDDEN),
        (404, Failure.SOURCE_GONE),
        (410, Failure.SOURCE_GONE),
        (500, Failure.SOURCE_UNAVAILABLE),
        (503, Failure.SOURCE_UNAVAILABLE),
    ],
)
def test_source_when_refused_then_has_the_class_of_the_answer(tmp_path, site, status, failure):
    """401 and 403, 404 and 410, and all that may pass."""
    order = replace(remote(site, tmp_path / "w"), url=f"{site.url}/status/{status}")
    run = run_worker(order, timeout_s=90)

    assert run.last["failure"] == failure
    assert "127.0.0.1/" not in run.last["message"]


def test_source_when_nobody_answers_then_is_unavailable(tmp_path, site):
    """A service that cannot be reached."""
    order = remote(site, tmp_path / "w")
    port = site.server_address[1]
    order = replace(order, url=f"http://127.0.0.1:{1 if port != 1 else 2}/file")
    run = run_worker(order, timeout_s=90)

    assert run.last["failure"] == Failure.SOURCE_UNAVAILABLE


@pytest.mark.parametrize("change", [b"x", b""], ids=["other bytes", "fewer bytes"])
def test_source_when_other_bytes_come_then_has_changed(tmp_path, site, change):
    """Size and md5 must be those that were announced; nothing is made of others."""
    order = remote(site, tmp_path / "w")
    data = site.handler.files["/file"]
    site.handler.files["/file"] = change + data[1:]
    run = run_worker(order)

    assert run.last["failure"] == Failure.SOURCE_CHANGED
    assert "done" not in [one["event"] for one in run.events]


def test_download_when_asked_to_end_then_ends(tmp_path, site):
    """SIGTERM in the middle of a download."""
    order = remote(site, tmp_path / "w", "/slow")
    with started(order) as worker:
        eventually(lambda: site.handler.seen, what="the request")
        eventually((tmp_path / "w" / "source").exists, what="the first bytes")
        began = time.monotonic()
        worker.terminate()
        out, _ = worker.communicate(timeout=30)

        assert time.monotonic() - began < 20
        assert json.loads(out.splitlines()[-1])["failure"] == Failure.CANCELLED


# Limits.


def test_memory_need_always_follows_the_caps():
    """About 1.2 times the larger buffer, and 40 MiB; samtools' counts per thread."""
    assert limits.memory_need(Caps(sort_memory_bytes=100, samtools_memory_bytes=0)) == 120 + (
        40 << 20
    )
    assert limits.memory_need(
        Caps(sort_memory_bytes=0, samtools_memory_bytes=100, tool_threads=3)
    ) == 360 + (40 << 20)


def test_memory_group_when_not_permitted_then_is_none(tmp_path):
    """Where control groups cannot be written, work goes on without."""
    assert limits.MemoryGroup.make("job", 1 << 20, root=tmp_path / "nowhere") is None


def test_memory_group_when_nothing_bounds_memory_there_then_is_none(tmp_path):
    """Where the controller is missing, or another file system lies, nothing is left behind."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    place = next((line[3:].lstrip("/") for line in own if line.startswith("0::")), "")
    if ".." not in place.split("/"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)

    assert limits.MemoryGroup.make("job-1", 1 << 20, root=tmp_path) is None
    assert not list(tmp_path.rglob("synd-*"))


def test_memory_group_always_counts_kills_and_takes_members(tmp_path):
    """The kernel's count is read, and a process moves itself."""
    group = limits.MemoryGroup(tmp_path)

    assert group.oom_kills() == 0
    (tmp_path / "memory.events").write_text("low 0\noom 2\noom_kill 3\n")
    assert group.oom_kills() == 3
    limits.join(tmp_path)
    assert (tmp_path / "cgroup.procs").read_text() == str(os.getpid())
