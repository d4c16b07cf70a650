"""How it stands with what is made of a file: whether it is there, why not, and what a failure means.

Asks the store alone; starts nothing. The names are `readynames`' matter, nodes `ready`'s.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from synd.errors import (
    Busy,
    CacheFull,
    DeadlineExceeded,
    Forbidden,
    NotFound,
    Offline,
    StageFailed,
    SyndError,
)
from synd.ids import ContentKey, syn
from synd.jobs.failures import Failure
from synd.jobs.lookup import Lookup
from synd.jobs.model import Job, JobState
from synd.mirror.overlay import Overlay, Seen
from synd.model import FileVersion
from synd.processors.base import PIPELINE_VERSION, SYNAPSE
from synd.processors.keys import workflow_key
from synd.store.entities import Row
from synd.store.local import Local
from syndd.mount.readynames import form_of

PLAIN_MOST = 4096


class One(Protocol):
    """An artifact that can be read now."""

    @property
    def content(self) -> ContentKey: ...
    @property
    def size(self) -> int: ...
    @property
    def suffix(self) -> str: ...
    @property
    def alias(self) -> bool:
        """It is the source itself."""
        ...

    @property
    def extra(self) -> Mapping[str, tuple[str, int]]:
        """Further files that belong to it: suffix → (key in the cache, bytes)."""
        ...


class Both(Protocol):
    """What there is of one source."""

    @property
    def data(self) -> One | None: ...
    @property
    def index(self) -> One | None: ...


class Making(Protocol):
    """What is asked of `syndd.promises.Promises`."""

    def look(self, file: FileVersion, name: str) -> Both: ...
    def refused(self, file: FileVersion, name: str) -> StageFailed | None: ...
    async def make(self, file: FileVersion, name: str) -> str:
        """Ends when both are there; otherwise says why there is nothing to make."""
        ...


class Told(NamedTuple):
    """How it stands with one file, for people and for extended attributes."""

    state: str
    """ready, as-it-is, preparing, waiting, failed, not-prepared, changed-here, unknown"""
    reason: str
    mend: str = ""
    job: Job | None = None
    error: SyndError | None = None


class Made(NamedTuple):
    """Bytes that synd made, an object of the cache."""

    content: ContentKey
    size: int


@dataclass(frozen=True, slots=True)
class Artifacts:
    """All that was made of one source."""

    data: Made | None
    """None: the source itself."""
    index: Made
    index_suffix: bytes
    extra: dict[bytes, Made]
    """By suffix."""


class ReadyState:
    """Any thread."""

    def __init__(
        self, making: Making, jobs: Lookup, overlay: Overlay, *, gtf_as_gff3: bool
    ) -> None:
        self.making = making
        self.gtf_as_gff3 = gtf_as_gff3
        self._jobs = jobs
        self._overlay = overlay
        self._plain: dict[str, str] = {}
        """md5 → why such a file is read as it is, though its name promises more."""

    def look(self, row: Row) -> Artifacts | None:
        """What can be read now; None: not all of it is there."""
        if not row.detailed or row.md5 is None:
            return None
        pair = self.making.look(row.file(), row.name)
        data, index = pair.data, pair.index
        if data is None or index is None:
            return None
        return Artifacts(
            None if data.alias else Made(data.content, data.size),
            Made(index.content, index.size),
            index.suffix.encode(),
            {s.encode(): Made(ContentKey(key), size) for s, (key, size) in index.extra.items()},
        )

    def found_plain(self, row: Row, why: str) -> None:
        """A file turned out to be read as it is."""
        if row.md5 is not None:
            if len(self._plain) >= PLAIN_MOST:
                self._plain.clear()
            self._plain[row.md5] = why

    def plain(self, row: Row, indexes: Collection[bytes]) -> str | None:
        """Why a file is read as it is; None: it is not, as far as is known. `indexes`: what its name promises."""
        if not indexes:
            return "files of its kind are read as they are"
        if not row.detailed:
            return None
        if row.size == 0:
            return "it is empty"
        if row.md5 is None:
            return "the service does not know its md5"
        return self._plain.get(row.md5)

    def refused(self, row: Row) -> StageFailed | None:
        """Why its bytes cannot be processed, as far as that is known."""
        return self.making.refused(row.file(), row.name) if row.detailed else None

    def told(self, key: int) -> Told:
        """The same for people, of a file by its key."""
        seen = self._overlay.seen(key)
        if seen is None:
            return Told("unknown", "it is not known any more")
        row = seen.row
        if row is None or is_edited(seen.local):
            error = not_sent(seen)
            return Told("changed-here", error.message, error.hint, error=error)
        form = form_of(name_of(seen), gtf_as_gff3=self.gtf_as_gff3)
        why = self.plain(row, () if form is None else form.indexes)
        if why is not None:
            return Told("as-it-is", why)
        if row.md5 is None:
            return Told("not-prepared", "nothing is known of its bytes yet", "open it")
        job = self._jobs.latest(workflow_key(SYNAPSE, syn(row.id), row.md5, PIPELINE_VERSION))
        if self.look(row) is not None:
            return Told("ready", "it is prepared", job=job)
        refused = self.refused(row)
        if refused is not None:
            return Told("failed", refused.message, refused.hint, job, refused)
        return _of_job(job)


def name_of(seen: Seen) -> bytes:
    """The name that a file has in the mount."""
    if seen.local is not None:
        return seen.local.name
    return b"" if seen.row is None else seen.row.file_name


def is_edited(local: Local | None) -> bool:
    """Whether the bytes here are others than those of the service."""
    return local is not None and local.unsent_bytes


def not_sent(seen: Seen) -> Busy:
    """The bytes that it would be made of are not on the service."""
    return Busy(
        f"{name_of(seen).decode(errors='replace')!r} was changed here, and is prepared once it is sent",
        hint="`synd wait` waits for that",
    )


def check_access(row: Row) -> None:
    """Raises Forbidden: decided on the file that is asked for, before anything else."""
    if row.unmet_terms:
        raise Forbidden(
            f"{row.name!r} has terms of use that you have not accepted", entity=syn(row.id)
        )
    if row.key is None and row.url is None:
        raise Forbidden(f"you may not download {row.name!r}", entity=syn(row.id))


_RETRY = "opening it again tries again"

_ERRORS: dict[Failure, type[SyndError]] = {
    Failure.SOURCE_FORBIDDEN: Forbidden,
    Failure.SOURCE_GONE: NotFound,
    Failure.SOURCE_UNAVAILABLE: Offline,
    Failure.NO_SPACE: CacheFull,
    Failure.TIMEOUT: DeadlineExceeded,
}
"""Of the others: StageFailed, which is EIO."""


def failure_of(job: Job) -> SyndError:
    """What a job that did not complete means for a program that waited for it."""
    problem = job.problem or {}
    failure = job.failure or Failure.INTERNAL
    message = str(problem.get("title") or failure.meaning.text)
    hint = str(problem.get("hint") or "") or _RETRY
    kind = _ERRORS.get(failure)
    if kind is not None:
        return kind(message, hint=hint)
    line = problem.get("bad_line")
    return StageFailed(
        message, failure=failure.value, hint=hint, bad_line=line if isinstance(line, int) else None
    )


def _of_job(job: Job | None) -> Told:
    """How it stands with what is not there, by the last job that was to make it."""
    if job is None or job.state is JobState.COMPLETED:
        # What was made was evicted.
        return Told("not-prepared", "it is not prepared yet", "opening it does that", job)
    if job.state is JobState.PENDING:
        return Told(
            "waiting", "a job that prepares it waits for its turn", "`synd jobs` shows it", job
        )
    if job.state is JobState.RUNNING:
        far = f", {100 * job.done // job.total} %" if job.total else ""
        stage = f": {job.stage}{far}" if job.stage else ""
        return Told(
            "preparing", f"a job prepares it{stage}", "`synd jobs` shows how far it is", job
        )
    error = failure_of(job)
    return Told("failed", error.message, error.hint, job, error)
