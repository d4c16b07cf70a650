"""What a row of local changes means for people: what will be done, in which state it is, why, and the mend.

Pure: everything that is not in the row comes as a `Scene`. Leaves finding that out to `syndd.edits`.
"""

from __future__ import annotations

import json
import shlex
import stat
from typing import NamedTuple

from synd.clock import NS, format_time
from synd.control.changes import Intent, UnsentState
from synd.mirror.push import Progress
from synd.paths import is_dropping
from synd.store.local import Local, LocalKind, Sending
from synd.store.outbox import PARK_NS
from synd.store.unsent import is_kept_here


class Scene(NamedTuple):
    """What a row's state depends on besides the row."""

    now_ns: int
    path: str = ""
    moved: bool = False
    """Its place or name is not where the service has it."""
    paused: bool = False
    no_login: str = ""
    """Why the service does not know us; empty: it does."""
    offline_since_ns: int = 0
    """0: online."""
    sending: Progress | None = None
    writers: int = 0
    folder: str = ""
    """Path of its folder while that is not on the service; else empty."""
    folder_stays: bool = False
    """Its folder is kept here, and so is all that it holds."""
    by_pattern: bool = False
    """Its name is one of the setting `local_only`."""


PARKED_S = PARK_NS / NS / 2
"""A row whose turn is further away waits for another one, which will call it."""


class Reason(NamedTuple):
    """Why a row is as it is, and what the user can do."""

    text: str
    mend: str = ""


def intents(row: Local, *, moved: bool) -> list[Intent]:
    """What will be done on the service, in that order."""
    if row.local_only:
        return []
    if row.gone:
        return ["delete"] if row.entity is not None else []
    found: list[Intent] = []
    sendable = row.unsent_bytes and row.size > 0
    if row.entity is None:
        if row.kind != LocalKind.FILE or sendable:
            found.append("create")
        return found
    if moved:
        found.append("move")
    if sendable:
        found.append("update")
    if row.annotations is not None:
        found.append("annotate")
    return found


def state(row: Local, sending: Progress | None) -> UnsentState:
    """Where it is on its way."""
    if is_kept_here(row):
        return "kept-here"
    if row.state == Sending.BLOCKED:
        return "blocked"
    if row.state == Sending.HELD:
        return "held"
    return "sending" if sending is not None else "waiting"


def problem(row: Local) -> dict[str, str]:
    """The problem body of the last failure, its texts; empty when there is none."""
    if row.problem is None:
        return {}
    try:
        found = json.loads(row.problem)
    except ValueError:
        return {"type": "SyndError", "title": row.problem}
    return {k: str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def to_send_bytes(row: Local) -> int:
    """Bytes of content that the service does not have."""
    return row.size if not row.gone and row.unsent_bytes and not row.local_only else 0


def reason(row: Local, scene: Scene) -> Reason:
    """Why it is not on the service (yet)."""
    match state(row, scene.sending):
        case "kept-here":
            return _kept(row, scene)
        case "blocked":
            found = problem(row)
            return Reason(
                found.get("title", "the service refuses it"),
                found.get("hint") or f"mend that, then `synd upload-now {shlex.quote(scene.path)}`",
            )
        case "held":
            return Reason(
                "one of many deletes at once: nothing is deleted on the service without your yes",
                f"`synd approve {shlex.quote(scene.path)}` lets it go, "
                f"`synd discard {shlex.quote(scene.path)}` brings it back",
            )
        case "sending":
            return _sending(scene)
        case "waiting":
            return _waiting(row, scene)


def _sending(scene: Scene) -> Reason:
    progress = scene.sending
    if progress is None or not progress.total_bytes:
        return Reason("it is being sent")
    return Reason(f"{progress.sent_bytes} of {progress.total_bytes} bytes are sent")


def _waiting(row: Local, scene: Scene) -> Reason:
    if row.state == Sending.CLEAN:
        if scene.writers:
            return Reason("it is open for writing", "it is sent once it is closed")
        return Reason("everything of it is sent")
    if scene.paused:
        return Reason("sending is paused", "`synd resume`")
    if scene.no_login:
        return Reason(scene.no_login, "`synd login`, then `synd resume`")
    if scene.offline_since_ns:
        since = format_time(scene.offline_since_ns)
        return Reason(
            f"the service cannot be reached, offline since {since}", "it goes by itself once online"
        )
    if scene.folder:
        return Reason(f"it waits for its folder {scene.folder}", "see `synd why` of that folder")
    last = problem(row)
    wait_s = (row.not_before_ns - scene.now_ns) / NS
    if row.tries and last:
        again = f"in {wait_s:.0f} s" if wait_s >= 1 else "now"
        return Reason(
            f"it failed {row.tries} times, the last time: {last.get('title', '?')}; tried again {again}",
            last.get("hint", ""),
        )
    if scene.writers and not row.gone:
        return Reason("it is still open for writing", "it is sent once it is closed or at rest")
    if wait_s > PARKED_S:
        return Reason("it waits for another change that must be sent first")
    if wait_s >= 0:
        return Reason(f"it is sent in {wait_s:.0f} s unless it changes again")
    return Reason("its turn is next")


def _kept(row: Local, scene: Scene) -> Reason:
    """Why something is never sent."""
    name = row.name.decode(errors="replace")
    if row.kind == LocalKind.SPECIAL:
        what = {
            stat.S_IFIFO: "a named pipe",
            stat.S_IFSOCK: "a socket",
            stat.S_IFCHR: "a device",
            stat.S_IFBLK: "a device",
        }.get(stat.S_IFMT(row.mode or 0), "a special file")
        return Reason(f"{what} is this machine's matter only")
    if row.local_only and scene.by_pattern:
        return Reason(
            f"{name!r} fits the setting local_only", "rename it, or `synd config set local_only …`"
        )
    if row.local_only and is_dropping(name):
        return Reason(f"{name!r} is what editors and desktops leave about", "rename it to send it")
    if row.local_only and scene.folder_stays:
        return Reason("its folder is kept here, and all that it holds", "move it elsewhere")
    if row.kind == LocalKind.SYMLINK:
        return Reason("a symlink that leads to nothing on the service stays here")
    if row.kind == LocalKind.FILE and row.size == 0 and not row.local_only:
        if scene.writers:
            return Reason("it is empty and open for writing", "it is sent once it holds something")
        return Reason("Synapse keeps no empty files", "it is sent once it holds something")
    return Reason("it was made to stay here", "copy it elsewhere in the mount to send it")
