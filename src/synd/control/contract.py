"""The contract between the daemon and whoever asks it: routes, request and reply shapes, versions.

Everything is JSON over HTTP/1.1 on a Unix socket. Times are ISO-8601 in UTC and end in `_at`; spans
are seconds and end in `_s`; sizes are bytes. This module has no code, so that a client costs nothing.
Invariant: within one `API` number a field is only ever added; `SCHEMA` numbers the CLI's `--json`.
"""

from __future__ import annotations

import sys
from typing import Literal

from synd.control.changes import LocalState, Pending

if sys.version_info >= (3, 12):
    from typing import NotRequired, TypedDict
else:
    # The OpenAPI generator reads these shapes, and needs what 3.12's own TypedDict records.
    from typing import NotRequired

    from typing_extensions import TypedDict

API = 1
"""Major version of the routes: the `1` of `/v1`."""

SCHEMA = 1
"""The `"schema"` of every `--json` answer of the CLI."""

PROBLEM = "application/problem+json"
"""Media type of an error's body (RFC 9457)."""

STATUS = "/v1/status"
"""GET → Status; with `?path=` → PathStatus."""
WHY = "/v1/why"
"""GET `?path=` → Why."""
WAIT = "/v1/wait"
"""POST WaitRequest → WaitReply, when settled or when its time is up (then `settled` is false)."""
INFO = "/v1/info"
"""GET `?target=` (path or entity id) → Info."""
LIST = "/v1/list"
"""GET `?target=&long=0|1` → Listing."""
PREFETCH = "/v1/prefetch"
"""POST PrefetchRequest → Job (202)."""
CACHE = "/v1/cache"
"""GET → CacheUsage."""
CACHE_CLEAR = "/v1/cache/clear"
"""POST CacheRequest → CacheReply. No targets: everything."""
CACHE_PIN = "/v1/cache/pin"
"""POST CacheRequest → CacheReply."""
CACHE_UNPIN = "/v1/cache/unpin"
"""POST CacheRequest → CacheReply."""
CACHE_VERIFY = "/v1/cache/verify"
"""POST CacheRequest → Job (202)."""
JOBS = "/v1/jobs"
"""GET `?all=0|1&kind=&limit=` → Jobs; `/v1/jobs/{id}` GET → Job; `/v1/jobs/{id}/cancel` and `/retry` POST → Job;
`/v1/jobs/{id}/log` GET `?offset=` → JobLog, with `?follow=1` → server-sent events of kind `log`."""
JOBS_FOLLOW = "/v1/jobs/follow"
"""GET → server-sent events of kind `job`, `data` is a Job: active ones first, then each change."""
JOBS_CANCEL = "/v1/jobs/cancel"
"""POST JobKinds → Jobs: all that waited or ran, of these kinds or of any, ended."""
JOBS_PAUSE = "/v1/jobs/pause"
"""POST JobKinds → QueueState: nothing more of these kinds is begun; of all, when none is named."""
JOBS_RESUME = "/v1/jobs/resume"
"""POST JobKinds → QueueState."""
JOBS_CLEAN = "/v1/jobs/clean"
"""POST → QueueState: forgets ended jobs and their logs."""
CONFIG = "/v1/config"
"""GET → the settings in force, name → value."""
LOG_LEVEL = "/v1/log-level"
"""PUT LogLevel → LogLevel."""
SHUTDOWN = "/v1/shutdown"
"""POST ShutdownRequest → ShutdownReply: answered when drained or refused, before the socket closes."""
EVENTS = "/v1/events"
"""GET `?since=&follow=0|1` → server-sent events; `data:` is an Event. With `since` (ISO time) the recent
ones from then on come first; without `follow` the stream ends after them."""
METRICS = "/metrics"
"""GET → Prometheus text."""
OPENAPI = "/v1/openapi.json"

Sync = Literal[
    "remote",
    "partial",
    "cached",
    "pinned",
    "fetching",
    "modified",
    "uploading",
    "conflict",
    "virtual",
    "blocked",
    "held",
    "local",
]
"""Where a file's bytes are: only there; some here; all here; … ; `virtual` is made by synd itself.

Of local changes: `modified` waits to be sent, `uploading` is being sent, `blocked` cannot be sent as it
is, `held` is a delete that waits for a yes, `conflict` is a conflict copy, `local` is never sent."""
Unit = Literal["bytes", "files", "requests"]
JobState = Literal["pending", "running", "completed", "failed", "cancelled"]


class Problem(TypedDict):
    """An error as a body, or something that wants attention in `Status.problems`."""

    type: str
    """Class name of `synd.errors`."""
    title: str
    status: NotRequired[int]
    errno: NotRequired[str]
    exit_code: NotRequired[int]
    retry: NotRequired[str]
    hint: NotRequired[str]
    entity: NotRequired[str]
    path: NotRequired[str]
    since_at: NotRequired[str]


class Mount(TypedDict):
    path: str
    transport: str
    """kernel or libfuse"""
    passthrough: bool
    passthrough_reason: str
    """Why not; empty when it is on."""
    since_at: str


class Service(TypedDict):
    """The remote side, as seen lately."""

    endpoint: str
    user: str
    """Name of the logged-in user; empty when anonymous or not yet known."""
    online: bool
    since_at: str
    """Online or offline since."""
    reason: str
    """Why offline; empty when online."""
    requests: int
    """Sent since the daemon's start."""
    throttled: bool
    throttled_until_at: str | None
    requests_per_minute: int
    """The bound in force; 0: none."""


class Freshness(TypedDict):
    """How old the mount's answers may be."""

    setting_s: float
    """Age at which a visited folder is to be asked about again."""
    bound_s: float
    """What the budget of polling requests allows with so many folders watched."""
    watched: int
    oldest_s: float | None
    """Age of the visited folder that was checked longest ago; None: none is open."""
    folder: str


class Transfer(TypedDict):
    """Bytes on their way."""

    path: str
    entity: str
    direction: Literal["down", "up"]
    bytes: int
    total_bytes: int | None
    rate_bytes_s: float
    since_at: str


class Wait(TypedDict):
    """Somebody is waiting for something, and until when."""

    what: str
    reason: str
    since_at: str
    deadline_at: str


class CacheUsage(TypedDict):
    path: str
    bytes: int
    """All of it: complete and partial objects."""
    objects: int
    partial_bytes: int
    partial_objects: int
    pinned_bytes: int
    limit_bytes: int
    """0: bounded by the free space to keep only."""
    disk_free_bytes: int
    keep_free_bytes: int


class AppStatus(TypedDict):
    """What `DaemonServices.status` fills in; the control server adds the process's own part."""

    mounts: list[Mount]
    service: Service
    freshness: Freshness
    transfers: list[Transfer]
    waits: list[Wait]
    cache: CacheUsage
    jobs: dict[str, int]
    """Number of jobs by state."""
    pending: Pending
    problems: list[Problem]
    safe_to_stop: bool
    """Nothing is unsent, and no transfer to the service is under way. `pending` says what else there is:
    what is blocked or held is safe on this disk, but waiting does not send it."""


class Browsers(TypedDict):
    """The loopback listener for genome browsers; its token is `Folders.http_token`."""

    address: str
    """Base URL; empty: it could not be had."""
    problem: str


class Process(TypedDict):
    """The process's own part of Status."""

    api: int
    version: str
    pid: int
    state: str
    """starting, ready, draining or stopped"""
    started_at: str
    uptime_s: float
    browsers: NotRequired[Browsers]
    """Left out: the listener is off."""


class Status(AppStatus, Process):
    """Everything about the daemon."""


class PathStatus(TypedDict):
    """The state of one file or folder."""

    path: str
    entity: str
    """Empty for what synd makes itself."""
    kind: str
    state: Sync
    version: int | None
    base_version: int | None
    """Of a local edit: the version it was made from."""
    size: int | None
    cached_bytes: int
    pinned: bool
    md5: str | None
    checked_at: str | None
    """When the service was last asked about it: for what a folder holds, else for what its folder holds."""
    settled: bool
    """Nothing of it (or below it) waits for upload."""
    local: NotRequired[LocalState]
    """What this machine has of it beyond what the service told; left out: nothing."""
    below: NotRequired[Pending]
    """Of a folder: what is unsent in it and below."""


class WhyJob(TypedDict):
    """A job of a file that failed, was cancelled, waits, or is under way."""

    id: str
    """Empty: no job, as it was known that it would fail."""
    kind: str
    state: JobState
    reason: str
    mend: str
    failure: str | None
    """Class of failure (docs/formats.md)."""
    attempt: int
    log: str
    """The command that shows what its programs said; empty: they have not said anything yet."""


class Why(TypedDict):
    """The state of one thing, the reason, and the mend."""

    path: str
    state: Sync
    reason: str
    mend: str
    """Empty when nothing needs mending."""
    facts: dict[str, str | int | float | bool | None]
    jobs: NotRequired[list[WhyJob]]
    """Of a file; left out: none but what is done."""


class WaitRequest(TypedDict):
    path: str | None
    timeout_s: float


class WaitReply(TypedDict):
    settled: bool
    stuck: bool
    """What is left waits for somebody: waiting longer does not send it."""
    reason: str
    """Why it is stuck; empty when it is not."""
    mend: str
    pending: Pending
    transfers: list[Transfer]
    """Under way to the service."""
    waited_s: float


class Info(TypedDict):
    """One entity, as the service tells it and as it lies here."""

    entity: str
    name: str
    kind: str
    path: str | None
    parent: str | None
    version: int | None
    version_label: str
    size: int | None
    md5: str | None
    content_type: str | None
    etag: str
    created_at: str
    created_by: str
    modified_at: str
    modified_by: str
    description: str
    annotations: dict[str, list[str]]
    link: str | None
    external_url: str | None
    access: dict[str, bool]
    state: Sync
    web: str
    """Page of the entity in a browser."""
    provenance: dict[str, object] | None


class ListEntry(TypedDict):
    name: str
    entity: str
    kind: str
    size: int | None
    version: int | None
    modified_at: str | None
    state: Sync


class Listing(TypedDict):
    target: str
    path: str | None
    entries: list[ListEntry]
    total: int
    checked_at: str | None


class PrefetchRequest(TypedDict):
    targets: list[str]
    pin: bool


class CacheRequest(TypedDict):
    targets: list[str]


class CacheReply(TypedDict):
    objects: int
    """How many objects were cleared, pinned or let go."""
    bytes: int
    kept_objects: int
    """Not cleared: pinned, open, or not sent yet."""
    kept_reason: str


class Progress(TypedDict):
    done: int
    total: int | None
    unit: Unit
    note: str
    """What it does just now."""


class Job(TypedDict):
    """One attempt at a piece of work. It never runs twice: what is tried again is a new job."""

    id: str
    kind: str
    state: JobState
    subject: str
    """What it works on, for people."""
    created_at: str
    started_at: str | None
    finished_at: str | None
    progress: Progress
    problem: Problem | None
    result: dict[str, object] | None
    attempt: NotRequired[int]
    """From 1."""
    retry_of: NotRequired[str | None]
    """The attempt before."""
    superseded_by: NotRequired[str | None]
    """The attempt after: follow it to the newest."""
    priority: NotRequired[int]
    """The smaller, the sooner."""
    after: NotRequired[int]
    """Jobs that it comes after and that are not completed yet."""
    not_before_at: NotRequired[str | None]
    """While pending: a retry waits until then."""
    cancelling: NotRequired[bool]
    """While running: its end was asked for."""
    stage: NotRequired[str]
    """Under way: fetch, data, index; empty: none."""
    stages_done: NotRequired[list[str]]
    artifacts: NotRequired[list[str]]
    """Cache keys of what it made so far."""
    failure: NotRequired[str | None]
    """Class of failure (docs/formats.md)."""


class OneJob(Job):
    """What `GET /v1/jobs/{id}` says, with the words of the answer 202 that led there."""

    status: JobState
    """`state`."""
    error_class: str | None
    """`failure`."""
    error: str | None
    """Why it failed, in a line."""


class Jobs(TypedDict):
    jobs: list[Job]
    paused: NotRequired[list[str]]
    """Kinds of which nothing is begun."""
    counts: NotRequired[dict[str, int]]
    """All jobs by state, also those that are not listed."""


class JobKinds(TypedDict):
    kinds: list[str]


class QueueState(TypedDict):
    paused: list[str]
    counts: dict[str, int]


class JobLog(TypedDict):
    """A part of what a job's programs said."""

    id: str
    text: str
    offset: int
    """Where to read on."""
    ended: bool
    """The job has ended, so nothing more comes once `text` is empty."""


class LogLevel(TypedDict):
    level: str


class ShutdownRequest(TypedDict):
    timeout_s: float
    """Budget for sending what is unsent. What is left when it is spent stays on this disk."""
    lazy: bool
    """Unmount although files are open there. Otherwise that is Busy (409), and the daemon runs on."""
    keep_mount: bool
    """Leave the mount to the holder: the next daemon goes on with it (a restart or an upgrade)."""


class ShutdownReply(TypedDict):
    drained: bool
    """Nothing is left unsent."""
    pending: Pending
    """What is left."""
    pid: int
    """The process that is about to end."""


class Event(TypedDict):
    """Something changed. Kinds: status, job, name, content, problem, edit, conflict."""

    id: NotRequired[int]
    """Counts the daemon's events."""
    kind: str
    at: str
    data: dict[str, object]
