"""What the control API asks of the daemon: a protocol that the composition root implements.

Every method runs on the daemon's asyncio loop and must not block it. Methods take and return values of
`synd.control.contract` and raise only `synd.errors`. A *target* is an absolute path below the mount or
an entity id (``syn123``, ``syn123.4``); a *path* is always the former. Nothing here may touch a path
under the mount itself: the daemon would wait for its own answer.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Protocol

from synd.config import Config
from synd.control import changes, contract, ready
from synd.processors.base import ArtifactKind
from synd.ranges import ByteRange
from syndd.schedule.known import Content


class EditServices(Protocol):
    """What can be asked of local changes. `Edits` implements it."""

    async def pending(self, path: str | None = None, limit: int = ...) -> changes.Pending:
        """What is not sent yet, of everything or of `path` and below; at most `limit` changes listed."""
        ...

    async def difference(self, path: str) -> changes.Difference: ...

    async def discard(self, targets: Sequence[str]) -> changes.Discarded:
        """Raises NotFound when nothing differs there, Busy when one of the files is open for writing."""
        ...

    async def upload_now(self, path: str | None) -> changes.Pending: ...

    async def pause(self) -> changes.Pending: ...

    async def resume(self) -> changes.Pending: ...

    async def approve(self, targets: Sequence[str]) -> changes.Approved:
        """All held deletes when `targets` is empty."""
        ...

    def conflicts(self, *, all: bool) -> changes.Conflicts:
        """Open ones, newest first; with `all`, resolved ones too."""
        ...

    def conflict(self, id: str) -> changes.Conflict:
        """Raises NotFound."""
        ...

    async def resolve(self, id: str, keep: changes.Keep) -> changes.Conflict: ...

    def recovered(self) -> changes.RecoveredList: ...

    async def restore(self, target: str) -> changes.Restored: ...

    async def comment(self, path: str, comment: str, label: str) -> changes.Unsent: ...

    async def annotate(
        self, path: str, values: Mapping[str, Sequence[str]], remove: Sequence[str]
    ) -> changes.Unsent: ...

    async def track(self, folder: str, target: str) -> changes.Tracked: ...

    async def untrack(self, folder: str) -> changes.Tracked: ...

    def tracked(self) -> changes.TrackedList: ...


class JobServices(Protocol):
    """What can be asked of jobs. `JobShowing` implements it."""

    def list(
        self, *, all: bool, kinds: Sequence[str] = ..., limit: int | None = ...
    ) -> Sequence[contract.Job]:
        """Newest first; only pending and running ones unless `all`."""
        ...

    def state(self) -> contract.QueueState: ...

    def get(self, id: str) -> contract.Job:
        """Raises NotFound."""
        ...

    async def cancel(self, id: str) -> contract.Job:
        """Answers when it has ended. Raises NotFound."""
        ...

    async def cancel_all(self, kinds: Sequence[str]) -> Sequence[contract.Job]:
        """Answers when all that waited or ran has ended, of these kinds or of any. Raises NotFound."""
        ...

    async def retry(self, id: str) -> contract.Job:
        """The new attempt. Raises NotFound, Busy."""
        ...

    async def pause(self, kinds: Sequence[str], *, paused: bool) -> contract.QueueState:
        """All kinds when none is named. Raises NotFound."""
        ...

    async def clean(self) -> contract.QueueState: ...

    def log(self, id: str, offset: int = ...) -> contract.JobLog:
        """Raises NotFound."""
        ...

    def follow_log(self, id: str) -> AsyncIterator[contract.Event]: ...

    def follow(self) -> AsyncIterator[contract.Event]: ...


class ReadyServices(Protocol):
    """What can be asked of files made readable by region. `ReadyFiles` implements it."""

    async def find(
        self,
        target: str,
        kind: ArtifactKind,
        *,
        raw: bool = ...,
        start: bool = ...,
        suffix: str = ...,
    ) -> Content | contract.Job:
        """Raises NotFound, Forbidden, StageFailed, QueueFull, Draining."""
        ...

    async def readiness(self, target: str, kind: ArtifactKind) -> ready.Readiness: ...

    def opened(self, content: Content) -> int | None:
        """A descriptor of its bytes, which the caller closes; None while they are not all here."""
        ...

    def read(self, content: Content, span: ByteRange) -> AsyncGenerator[bytes, None]: ...

    async def prepare(self, targets: Sequence[str]) -> ready.Prepared: ...

    async def formats(self) -> ready.Formats: ...


class DaemonServices(Protocol):
    """The daemon's abilities, one method each."""

    @property
    def work(self) -> JobServices:
        """The queue of jobs."""
        ...

    @property
    def ready(self) -> ReadyServices:
        """Files made readable by region."""
        ...

    @property
    def edits(self) -> EditServices:
        """Local changes. Raises ReadOnly where the mount takes none."""
        ...

    @property
    def config(self) -> Config:
        """The settings in force."""
        ...

    async def status(self) -> contract.AppStatus:
        """All but the process's own part. No request to the service, no disk walk."""
        ...

    async def status_of(self, path: str) -> contract.PathStatus:
        """Raises NotFound when the path is not in the mount or leads to nothing known."""
        ...

    async def why(self, path: str) -> contract.Why: ...

    async def pending(self) -> changes.Pending:
        """What is not sent yet, of everything."""
        ...

    async def wait(self, path: str | None, timeout_s: float) -> contract.WaitReply:
        """Returns when everything (or `path` and what is below it) is sent, when something of it is stuck,
        or when `timeout_s` has passed.
        """
        ...

    async def drain(self, timeout_s: float) -> changes.Pending:
        """Sends what can be sent, without the usual delays, within the time. Returns what is left."""
        ...

    async def unmount(self, *, lazy: bool) -> None:
        """Takes the mount away before a stop. Raises Busy (and changes nothing) when it is in use and
        not `lazy`. Done already: nothing happens.
        """
        ...

    async def info(self, target: str) -> contract.Info: ...

    async def ls(self, target: str, *, long: bool) -> contract.Listing:
        """A folder's entries by name. With `long`, sizes that are unknown are asked for."""
        ...

    async def prefetch(self, targets: Sequence[str], *, pin: bool) -> contract.Job:
        """Starts fetching files, or folders with all below; returns its job at once."""
        ...

    async def cache_usage(self) -> contract.CacheUsage: ...

    async def cache_clear(self, targets: Sequence[str]) -> contract.CacheReply:
        """Drops what is neither pinned, open nor unsent; all of the cache when `targets` is empty."""
        ...

    async def cache_pin(self, targets: Sequence[str], *, pinned: bool) -> contract.CacheReply: ...

    async def cache_verify(self, targets: Sequence[str]) -> contract.Job:
        """Starts hashing again; `result` of the finished job is {"checked", "bad", "repaired"}."""
        ...

    def events(
        self, since_at: str | None = None, *, follow: bool = True
    ) -> AsyncIterator[contract.Event]:
        """A new subscription; with `since_at`, what is remembered from then on comes first, and without
        `follow` nothing after it. Bounded: a subscriber that lags is given one `status` event instead of what it missed.
        """
        ...

    def metrics(self) -> Mapping[str, float]:
        """Name → value, without the prefix ``synd_``. A name may carry labels: ``requests_total{kind="entity"}``.

        Names that end in ``_total`` are counters, all others gauges.
        """
        ...
