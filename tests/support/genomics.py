"""The genomics fixtures with what is expected of them, orders for workers, and ways to look at what they made."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from synd.processors.base import ArtifactKind, Caps, Made, Source, Stored, Tools
from synd.processors.detect import HEAD_BYTES, Detected, detect
from synd.processors.pipeline import Launch, spawn
from synd.processors.stages import Finished, Order, Stages
from synd.processors.tools import Toolchain
from tests.support.source import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "genomics"
NATIVE = ("samtools", "bcftools", "bgzip", "tabix", "sort")
PACKAGES = ("pysam", "pyBigWig", "isal")


@dataclass(frozen=True)
class Case:
    """One file of the manifest."""

    file: str
    md5: str
    size: int
    detected_format: str
    container: str
    processor: str
    sidecar: str | None
    expected: Mapping[str, Any]

    @property
    def path(self) -> Path:
        return FIXTURES / self.file

    @property
    def source(self) -> Source:
        return Source("synapse", "syn1", self.md5, self.path.name, self.size)


def cases() -> list[Case]:
    """All files of the manifest."""
    files = json.loads((FIXTURES / "manifest.json").read_text())["files"]
    return [
        Case(
            one["file"],
            one["md5"],
            one["size"],
            one["detected_format"],
            one["container"],
            one["processor"],
            one.get("sidecar"),
            one["expected"],
        )
        for one in files
    ]


def case(file: str) -> Case:
    return next(one for one in cases() if one.file == file)


def need(tools: Tools, *programs: str) -> None:
    """Skips, by name, what this machine has not got."""
    wanted = programs or (NATIVE if tools is Tools.NATIVE else PACKAGES)
    for name in wanted:
        here = shutil.which(name) if name in (*NATIVE, "gffread") else installed(name)
        if not here:
            pytest.skip(f"{name} is not here")


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def source_of(path: Path, name: str = "", hint: str = "") -> Source:
    """A source with the bytes of a file."""
    data = path.read_bytes()
    md5 = hashlib.md5(data).hexdigest()
    return Source("synapse", "syn1", md5, name or path.name, len(data), hint)


def order(
    path: Path,
    folder: Path,
    *,
    name: str = "",
    tools: Tools = Tools.AUTO,
    stored: Mapping[ArtifactKind, Stored] | None = None,
    **caps: Any,
) -> Order:
    """The order to make all of a file's artifacts in a folder."""
    folder.mkdir(exist_ok=True)
    return Order(
        "job-1",
        source_of(path, name),
        folder,
        path,
        stored=stored or {},
        caps=Caps(tools=tools, **caps),
    )


@dataclass
class Recorder:
    """Starts programs for real, and remembers how."""

    launches: list[Launch]

    def __call__(self, launch: Launch) -> subprocess.Popen[bytes]:
        self.launches.append(launch)
        return spawn(launch)

    def commands(self, program: str) -> list[tuple[str, ...]]:
        """Arguments of every start of a program, or of its built-in twin."""
        found = []
        for launch in self.launches:
            argv = launch.argv
            if "synd.processors.twins" in argv:
                argv = argv[argv.index("synd.processors.twins") + 1 :]
            if Path(argv[0]).name == program:
                found.append(tuple(argv[1:]))
        return found


@dataclass
class Outcome:
    """What the stages of an order made in this process."""

    finished: Finished
    recorder: Recorder
    folder: Path
    source: Path

    def made(self, kind: ArtifactKind) -> Made:
        return next(one for one in self.finished.made if one.kind is kind)

    @property
    def data(self) -> Path:
        """Where DATA lies: an alias is the source."""
        return self.made(ArtifactKind.DATA).file or self.source

    @property
    def index(self) -> Path:
        file = self.made(ArtifactKind.INDEX).file
        assert file is not None
        return file


def make(
    order: Order, *, toolchain: Toolchain | None = None, told: list[Any] | None = None
) -> Outcome:
    """Runs the stages of an order in this process."""
    recorder = Recorder([])
    finished = stages(order, [] if told is None else told, recorder, toolchain).run()
    assert order.path is not None
    return Outcome(finished, recorder, order.folder, order.path)


def stages(
    order: Order, told: list[Any], recorder: Recorder, toolchain: Toolchain | None = None
) -> Stages:
    """The stages of an order, which put what they made into `told`."""
    return Stages(
        order,
        toolchain or Toolchain(order.caps.tools),
        lambda *_progress: None,
        lambda stage, made, _detected: told.append((stage, made)),
        recorder,
    )


def records(path: Path) -> bytes:
    """The decoded bytes of an artifact."""
    return gzip.decompress(path.read_bytes())


@dataclass
class Run:
    """What a worker process said, and how it ended."""

    events: list[dict[str, Any]]
    status: int
    stderr: str

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def stage(self, name: str) -> dict[str, Any]:
        return next(
            one for one in self.events if one["event"] == "stage_done" and one["stage"] == name
        )


def worker_command() -> list[str]:
    return [sys.executable, "-m", "synd.processors.worker"]


def run_worker(order: Order, *, timeout_s: float = 60, **environment: str) -> Run:
    """Runs a real worker process to its end."""
    done = subprocess.run(
        worker_command(),
        input=json.dumps(order.document()),
        capture_output=True,
        text=True,
        timeout=timeout_s,
        env={**os.environ, **environment},
    )
    return Run(
        [json.loads(line) for line in done.stdout.splitlines()], done.returncode, done.stderr
    )


def head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)


def detected(path: Path, name: str = "") -> Detected:
    return detect(name or path.name, head(path))


def lines(path: Path) -> list[bytes]:
    """The decoded lines of an artifact, by the standard library alone."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    return data.splitlines()


def overlaps(
    data: Path, index: Path, contig: str, begin: int, end: int, *, alignments: bool
) -> int:
    """How many records a region query by pysam gives; 1-based, closed."""
    import pysam

    if alignments:
        with pysam.AlignmentFile(str(data), index_filename=str(index)) as file:
            if contig not in file.references:
                return 0
            return int(file.count(contig, begin - 1, end))
    with pysam.TabixFile(str(data), index=str(index), encoding="latin-1") as file:
        if contig not in file.contigs:
            return 0
        return sum(1 for _ in file.fetch(contig, begin - 1, end))


def children_of(group: int) -> Iterator[int]:
    """Processes of a group that live."""
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            stat = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue
        state, _parent, its = stat.rpartition(")")[2].split()[:3]
        if int(its) == group and state != "Z":
            yield int(entry)
