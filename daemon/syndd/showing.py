"""Local changes as the control API shows them: rows, paths, counts, reasons. Changes nothing.

What a row means is `syndd.intents`' matter; here is found out what that depends on.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from synd.clock import NS, format_time
from synd.control import changes, contract
from synd.errors import CacheFull, NotFound, NotLoggedIn, UsageError
from synd.ids import EntityId, syn
from synd.mirror.push import Progress
from synd.paths import to_file_name
from synd.store.connect import Store
from synd.store.entities import TOP
from synd.store.local import FIRST, Local, Sending
from synd.store.unsent import Counts, Unsents, is_kept_here
from syndd import intents
from syndd.intents import Scene
from syndd.needs import Conflicting, Overlaid, Pushing, TrackedStatus, Tracking, Written

_NO_ROOM = json.dumps(
    CacheFull(
        "the disk of the state folder is full",
        hint="make room there: it is recorded by itself then",
    ).problem()
)

Parts = tuple[bytes, ...]
"""A path below the mount."""


class View(NamedTuple):
    """One look at everything that a row's state depends on."""

    sending: dict[int, Progress]
    paused: bool
    no_login: str
    offline_since_ns: int
    now_ns: int
    ways: dict[int, Parts | None]
    """Folder key → its path, as far as it was asked for."""

    @property
    def halted(self) -> bool:
        return self.paused or bool(self.no_login)


class Left(NamedTuple):
    """How much is unsent."""

    counts: Counts
    sending: int
    halted: bool
    """Paused, or without a login."""
    tracked: int = 0
    """Changes in tracked folders that are about to be queued."""
    holds: Sequence[changes.TrackedHold] = ()

    @property
    def verdict(self) -> changes.Verdict:
        if not self.counts.all and not self.sending and not self.tracked and not self.holds:
            return "sent"
        goes_on = self.sending or self.tracked or (self.counts.waiting and not self.halted)
        return "under-way" if goes_on else "stuck"

    @property
    def over(self) -> bool:
        """Whether waiting longer is of no use: all is sent, or something of it cannot be."""
        needs_somebody = self.counts.blocked + self.counts.held > 0 or bool(self.holds)
        return self.verdict != "under-way" or needs_somebody


def _and(counts: Counts, rows: Sequence[Local]) -> Counts:
    """The same with what waits besides."""
    if not rows:
        return counts
    return counts._replace(
        waiting=counts.waiting + len(rows),
        bytes=counts.bytes + sum(r.size for r in rows),
        since_ns=min([r.since_ns for r in rows] + ([counts.since_ns] if counts.since_ns else [])),
    )


def trouble_of(one: TrackedStatus) -> tuple[str, str]:
    """Why a tracked folder is not all that is watched and sent, and what mends that; empty when it is."""
    if one.held is None:
        return one.why, one.remedy
    folder = shlex.quote(str(one.root.folder))
    return (
        "much of it is missing: nothing is deleted on the service without your yes",
        f"`synd approve {folder}`",
    )


class Showing:
    """One daemon's local changes, looked at. Any thread."""

    def __init__(
        self,
        *,
        store: Store,
        overlay: Overlaid,
        pusher: Pushing,
        conflicts: Conflicting,
        tracker: Tracking,
        contents: Written,
        mount: Path,
        by_pattern: Callable[[str], bool],
    ) -> None:
        """As `Edits` takes them."""
        self.overlay = overlay
        self.unsents = Unsents(store)
        self.writers = contents.writers
        self._contents = contents
        self.mount = mount
        self._pusher = pusher
        self._conflicts = conflicts
        self._tracker = tracker
        self._by_pattern = by_pattern

    # What is unsent.

    def left(self, parts: Parts | None) -> Left:
        """How much is unsent of everything, or of a path and what is below it."""
        view = self.view()
        if parts is None:
            counts = _and(self.unsents.counts(), self._refused())
            return Left(counts, len(view.sending), view.halted, *self._tracked())
        return self._left_of(
            self.below(parts, [*self.unsents.unsent(), *self._refused()], view), view
        )

    def _refused(self) -> list[Local]:
        """Files whose close the full disk refused to record, but for those that wait anyhow."""
        found = []
        for staged in self._contents.refused():
            row = self.overlay.locals.of_staged(staged)
            if row is None or row.gone or row.local_only:
                continue
            if row.state != Sending.CLEAN and not is_kept_here(row):
                continue  # It is counted already.
            with contextlib.suppress(OSError, NotFound):
                size = self._contents.stat(staged).st_size
                if size:
                    found.append(
                        row._replace(
                            state=Sending.WAITING, size=size, edit=row.edit + 1, tries=1,
                            since_ns=row.since_ns or row.ctime_ns, problem=_NO_ROOM,
                        )
                    )  # fmt: skip
        return found

    def _tracked(self) -> tuple[int, list[changes.TrackedHold]]:
        """Changes in tracked folders that are not in the queue yet: those that go by themselves, and held ones."""
        going, holds = 0, []
        for one in self._tracker.status():
            going += one.waiting + one.unsent
            if one.held is not None:
                reason, mend = trouble_of(one)
                holds.append(
                    changes.TrackedHold(
                        folder=str(one.root.folder), deletes=one.held.missing_files,
                        reason=reason, mend=mend,
                    )
                )  # fmt: skip
        return going, holds

    def _left_of(self, rows: Sequence[Local], view: View) -> Left:
        states = [r.state for r in rows]
        counts = Counts(
            waiting=states.count(Sending.WAITING),
            blocked=states.count(Sending.BLOCKED),
            held=states.count(Sending.HELD),
            bytes=sum(intents.to_send_bytes(r) for r in rows),
            since_ns=min((r.since_ns for r in rows), default=0),
        )
        return Left(counts, sum(r.id in view.sending for r in rows), view.halted)

    def pending(self, parts: Parts | None, limit: int) -> changes.Pending:
        """What is unsent of everything, or of a path and what is below it."""
        view = self.view()
        conflicts = self._conflicts.list(all=False)
        written = [
            r for staged in self._contents.writing()
            if (r := self.overlay.locals.of_staged(staged)) is not None and not r.gone
        ]  # fmt: skip
        if parts is None:
            left = self.left(None)
            shown = [*self.unsents.unsent(limit), *self._refused()][:limit]
            kept = self.unsents.count_kept_here()
        else:
            rows = self.below(parts, [*self.unsents.unsent(), *self._refused()], view)
            left, shown = self._left_of(rows, view), rows[:limit]
            kept = len(self.below(parts, self.unsents.kept_here(), view))
            written = self.below(parts, written, view)
            top = b"/".join(parts).decode(errors="replace")
            conflicts = [c for c in conflicts if f"{c.path}/".startswith(f"{top}/") or not top]
        listed = [self.unsent_of(row, view) for row in shown]
        counts, offline = left.counts, view.offline_since_ns
        return {
            "uploads": counts.all,
            "bytes": counts.bytes,
            "items": [one["path"] for one in listed],
            "changes": listed,
            "verdict": left.verdict,
            "waiting": counts.waiting,
            "sending": left.sending,
            "blocked": counts.blocked,
            "held": counts.held,
            "kept_here": kept,
            "writing": len(written),
            "tracked": left.tracked + sum(one["deletes"] for one in left.holds),
            "tracked_holds": list(left.holds),
            "conflicts": len(conflicts),
            "since_at": format_time(counts.since_ns) if counts.since_ns else None,
            "offline_since_at": format_time(offline) if offline else None,
            "paused": view.paused,
        }

    def view(self) -> View:
        problem = self._pusher.problem
        return View(
            {one.number: one for one in self._pusher.sending()},
            self._pusher.paused,
            problem.message if isinstance(problem, NotLoggedIn) else "",
            self._pusher.offline_since_ns,
            time.time_ns(),
            {},
        )

    def unsent_of(self, row: Local, view: View | None = None) -> changes.Unsent:
        """One row as the control API shows it."""
        scene = self._scene(row, view or self.view())
        why = intents.reason(row, scene)
        wait_s = (row.not_before_ns - scene.now_ns) / NS
        waits = row.state == Sending.WAITING and 0 < wait_s < intents.PARKED_S
        return {
            "id": str(row.id - FIRST),
            "path": scene.path,
            "entity": "" if row.entity is None else syn(row.entity),
            "kind": row.kind,
            "intents": intents.intents(row, moved=scene.moved),
            "state": intents.state(row, scene.sending),
            "since_at": format_time(row.since_ns or row.ctime_ns),
            "next_at": format_time(row.not_before_ns) if waits else None,
            "bytes": intents.to_send_bytes(row),
            "sent_bytes": scene.sending.sent_bytes if scene.sending else 0,
            "tries": row.tries,
            "reason": why.text,
            "mend": why.mend,
            "problem": intents.problem(row).get("type", ""),
        }

    def _scene(self, row: Local, view: View) -> Scene:
        folder = self.overlay.locals.of_key(row.parent) if row.parent else None
        waits_for = folder if folder is not None and folder.entity is None else None
        return Scene(
            now_ns=view.now_ns,
            path=self.shown(self.path(row, view)),
            moved=self._moved(row),
            paused=view.paused,
            no_login=view.no_login,
            offline_since_ns=view.offline_since_ns,
            sending=view.sending.get(row.id),
            writers=self.writers(row.id) if row.staged else 0,
            folder=self.shown(self.path(waits_for, view)) if waits_for is not None else "",
            folder_stays=bool(folder is not None and folder.local_only),
            by_pattern=self._by_pattern(row.name.decode(errors="surrogateescape")),
        )

    def _moved(self, row: Local) -> bool:
        if row.entity is None or row.gone or row.base_name is None or row.base_parent is None:
            return False
        if row.parent != (self.overlay.key_of(row.base_parent) if row.base_parent else TOP):
            return True
        return row.name != self._base_file_name(row)

    def _base_file_name(self, row: Local) -> bytes:
        """How the mount spells the name that the service had."""
        assert row.entity is not None
        assert row.base_name is not None
        known = self.overlay.entities.find(row.entity)
        if known is not None and known.name == row.base_name:
            return known.file_name
        return to_file_name(row.base_name, row.entity).encode(errors="surrogateescape")

    def moved_from(self, row: Local) -> str:
        """Where the service still has it; empty when it is not to be moved."""
        if not self._moved(row) or row.entity is None or row.base_parent is None:
            return ""
        way = self._way(self.overlay.key_of(row.base_parent) if row.base_parent else TOP, {})
        return self.shown((*(way or (b"?",)), self._base_file_name(row)))

    def transfers(self) -> list[contract.Transfer]:
        """Bytes under way to the service."""
        found: list[contract.Transfer] = []
        view = self.view()
        for one in view.sending.values():
            row = self.overlay.locals.find(one.number)
            if row is None or not one.total_bytes:
                continue
            spent_s = max((view.now_ns - one.since_ns) / NS, 1e-3)
            found.append(
                {
                    "path": self.shown(self.path(row, view)),
                    "entity": "" if row.entity is None else syn(row.entity),
                    "direction": "up",
                    "bytes": one.sent_bytes,
                    "total_bytes": one.total_bytes,
                    "rate_bytes_s": round(one.sent_bytes / spent_s, 1),
                    "since_at": format_time(one.since_ns),
                }
            )
        return found

    def problems(self, pending: changes.Pending) -> list[contract.Problem]:
        """What of local changes wants somebody's attention."""
        found: list[contract.Problem] = [
            {"type": one["problem"] or "Held", "title": one["reason"], "hint": one["mend"],
             "path": one["path"], "since_at": one["since_at"]}
            for one in pending["changes"] if one["state"] == "blocked"
        ]  # fmt: skip
        if pending["held"]:
            found.append(
                {
                    "type": "Held",
                    "title": f"{pending['held']} deletes wait for your yes",
                    "hint": "`synd approve --all`, or `synd discard PATH` to bring them back",
                }
            )
        if pending["conflicts"]:
            found.append(
                {
                    "type": "Conflict",
                    "title": f"{pending['conflicts']} conflicts are open; both sides are kept",
                    "hint": "`synd conflicts`",
                }
            )
        for one in self._tracker.status():
            reason, mend = trouble_of(one)
            if reason:
                folder = str(one.root.folder)
                found.append(
                    {
                        "type": "Tracked",
                        "title": f"{folder}: {reason}",
                        "hint": mend,
                        "path": folder,
                    }
                )
        if pending["paused"]:
            found.append({"type": "Paused", "title": "sending is paused", "hint": "`synd resume`"})
        return found

    # One path.

    def local_state(self, row: Local) -> changes.LocalState:
        """What this machine has of one thing beyond what the service told."""
        touching = [
            c for c in self._conflicts.list(all=False)
            if c.copy == row.id or (c.entity is not None and c.entity == row.entity)
        ]  # fmt: skip
        return {
            "change": self.unsent_of(row),
            "base_version": row.base_version or None,
            "comment": row.comment,
            "label": row.label,
            "writers": self.writers(row.id) if row.staged else 0,
            "conflict": str(touching[0].id) if touching else "",
        }

    def state(self, row: Local) -> contract.Sync | None:
        """What becomes of a row's changes, in one word; None when it has none."""
        if not kept_or_unsent(row):
            return None
        sending = {one.number: one for one in self._pusher.sending()}
        match intents.state(row, sending.get(row.id)):
            case "sending":
                return "uploading"
            case "blocked":
                return "blocked"
            case "held":
                return "held"
            case "kept-here":
                return "local"
            case "waiting":
                return "conflict" if self.is_conflict_copy(row) else "modified"

    def metrics(self) -> dict[str, float]:
        """Numbers for Prometheus."""
        counts = self.unsents.counts()
        view = self.view()
        found = {
            f'unsent{{state="{state}"}}': float(getattr(counts, state))
            for state in ("waiting", "blocked", "held")
        }
        return found | {
            "unsent_bytes": float(counts.bytes),
            "uploads": float(len(view.sending)),
            "uploads_paused": float(view.paused),
            "conflicts_open": float(len(self._conflicts.list(all=False))),
        }

    def is_conflict_copy(self, row: Local) -> bool:
        return any(c.copy == row.id for c in self._conflicts.list(all=False))

    def gone_at(self, path: str) -> Local | None:
        """The row of a removed thing, by its id or where it was, whose delete is unsent."""
        entity = self.entity_of(path)
        if entity is not None:
            row = self.overlay.locals.of_entity(EntityId(entity))
            return row if row is not None and row.gone and kept_or_unsent(row) else None
        spelled = self.spellings(path)
        view = self.view()
        found = [
            r for r in self.unsents.unsent() if r.gone and self.path(r, view) in spelled
        ]  # fmt: skip
        return found[-1] if found else None

    def shown_of(self, row: Local) -> str:
        """A row's path in the mount; of a removed thing: where it was."""
        return self.shown(self.path(row, self.view()))

    def inside(self, path: str) -> Parts:
        """The parts of a path below the mount. Raises NotFound."""
        try:
            below = Path(path).relative_to(self.mount)
        except ValueError as error:
            raise self.outside(path) from error
        return tuple(p.encode(errors="surrogateescape") for p in below.parts)

    def outside(self, path: str) -> NotFound:
        """What is to be said of a path that is not in the mount: in a tracked folder, where else it is."""
        for one in self._tracker.status():
            folder = one.root.folder
            if not Path(path).is_relative_to(folder):
                continue
            rest = Path(path).relative_to(folder).parts
            top = self._way(self.overlay.key_of(one.root.entity), {})
            where = "" if top is None else f"; in the mount it is {Path(self.shown(top), *rest)}"
            what = f"in the tracked folder {folder}" if rest else "a tracked folder"
            return NotFound(
                f"{path} is {what}, not in the mount at {self.mount}",
                hint=f"`synd tracked` tells how it is sent, `synd wait` waits for it{where}",
                path=path,
            )
        return NotFound(f"{path} is not in the mount at {self.mount}", path=path)

    def shown(self, parts: Sequence[bytes]) -> str:
        return str(self.mount.joinpath(*(p.decode(errors="replace") for p in parts)))

    def _way(self, key: int, ways: dict[int, Parts | None]) -> Parts | None:
        if key not in ways:
            found = self.overlay.path_of(key) if key else []
            ways[key] = None if found is None else tuple(found)
        return ways[key]

    def path(self, row: Local, view: View) -> Parts:
        way = self._way(row.parent, view.ways)
        return (*((b"?",) if way is None else way), row.name)

    def below(self, parts: Parts, rows: Iterable[Local], view: View) -> list[Local]:
        return [r for r in rows if self.path(r, view)[: len(parts)] == parts]

    def rows(self, targets: Sequence[str]) -> list[Local]:
        if not targets:
            return self.unsents.unsent()
        view = self.view()
        found = {r.id: r for target in targets for r in self.named(target, view)}
        return list(found.values())

    def named(self, target: str, view: View) -> list[Local]:
        """Unsent rows that a path (with all below), an entity id or a change's id names."""
        if target.isdecimal():
            row = self.overlay.locals.find(int(target) + FIRST)
            if row is None:
                raise NotFound(f"there is no change {target}", hint="`synd status` shows them")
            return [row]
        parts = self.parts_of(target)
        return [] if parts is None else self.below(parts, self.unsents.unsent(), view)

    def spellings(self, path: str) -> set[Parts]:
        """All ways to write a path below the mount: by the id of its project or by the project's name, whether
        or not the project is listed in the mount by now. Raises NotFound.
        """
        parts = self.inside(path)
        found = {parts}
        if len(parts) > 1 and parts[0] == b"@id" and parts[1][3:].isdigit():
            entity = int(parts[1][3:])
            top = self.overlay.path_of(self.overlay.key_of(entity))
            if top is not None:
                found.add((*top, *parts[2:]))
            row = self.overlay.entities.find(entity)
            if row is not None and row.parent == TOP:
                found.add((row.file_name, *parts[2:]))
        return found

    def entity_of(self, target: str) -> int | None:
        """The number of what is named by an id; None of a path. Raises UsageError."""
        if target.startswith("/"):
            return None
        digits = target.removeprefix("syn").partition(".")[0]
        if not digits.isdecimal():
            raise UsageError(f"{target!r} is neither a path nor an id")
        return int(digits)

    def parts_of(self, target: str) -> Parts | None:
        if target.isdecimal():
            return None
        entity = self.entity_of(target)
        if entity is not None:
            found = self.overlay.path_of(self.overlay.key_of(entity))
            return None if found is None else tuple(found)
        parts = self.inside(target)
        if len(parts) > 1 and parts[0] == b"@id" and parts[1][3:].isdigit():
            # The place that the entity has in the mount, as rows tell their paths.
            top = self.overlay.path_of(self.overlay.key_of(int(parts[1][3:])))
            if top is not None:
                return (*top, *parts[2:])
        return parts


def kept_or_unsent(row: Local) -> bool:
    """Whether a row says more than what only this machine keeps of a thing, such as its mode."""
    return row.state != Sending.CLEAN or is_kept_here(row) or row.unsent_bytes


def stuck_for(pending: changes.Pending) -> tuple[str, str] | None:
    """Why waiting does not help, and the mend; None while it may."""
    if pending["tracked_holds"] and not pending["blocked"] + pending["held"]:
        hold = pending["tracked_holds"][0]
        more = len(pending["tracked_holds"]) - 1
        others = f" (and {more} more)" if more else ""
        return f"{hold['folder']}: {hold['reason']}{others}", hold["mend"]
    if pending["blocked"] or pending["held"] or pending["verdict"] == "stuck":
        first = pending["changes"][0]
        more = (pending["blocked"] + pending["held"] or pending["uploads"]) - 1
        others = f" (and {more} more)" if more else ""
        return f"{first['path']}: {first['reason']}{others}", first["mend"]
    return None
