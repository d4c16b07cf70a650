"""Local changes from memory: meets `EditServices`, for tests of what is above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from synd.clock import format_time
from synd.control import changes
from synd.errors import Busy, NotFound

NOW = format_time(1_700_000_000_000_000_000)


def change(path: str, state: changes.UnsentState = "waiting", **more: object) -> changes.Unsent:
    """One unsent change; `more` replaces fields."""
    one: changes.Unsent = {
        "id": "7",
        "path": path,
        "entity": "syn5",
        "kind": "file",
        "intents": ["update"],
        "state": state,
        "since_at": NOW,
        "next_at": None,
        "bytes": 10,
        "sent_bytes": 0,
        "tries": 0,
        "reason": "its turn is next",
        "mend": "",
        "problem": "",
    }
    return {**one, **more}  # type: ignore[typeddict-item]  # tests know the fields


class FakeEdits:
    """Its attributes are what a test sets."""

    def __init__(self) -> None:
        self.unsent: list[changes.Unsent] = []
        self.paused = False
        self.offline_since_at: str | None = None
        self.kept_here = 0
        self.tracked_holds: list[changes.TrackedHold] = []
        self.asked: list[tuple[str, object]] = []
        self.open: set[str] = set()
        """Paths that somebody has open for writing."""
        self.known_conflicts: dict[str, changes.Conflict] = {}
        self.taken: list[changes.Recovered] = []
        self.folders: dict[str, changes.Tracked] = {}
        self.differs: changes.Difference | None = None

    def pending_now(self, path: str | None = None) -> changes.Pending:
        found = [
            c for c in self.unsent if path is None or f"{c['path']}/".startswith(f"{path}/")
        ]  # fmt: skip
        count = {
            s: sum(c["state"] == s for c in found)
            for s in ("waiting", "sending", "blocked", "held")
        }
        goes = count["sending"] or (count["waiting"] and not self.paused)
        return {
            "uploads": len(found),
            "bytes": sum(c["bytes"] for c in found),
            "items": [c["path"] for c in found],
            "changes": sorted(found, key=lambda c: c["state"] not in ("blocked", "held")),
            "verdict": "under-way" if goes else "stuck" if found or self.tracked_holds else "sent",
            "waiting": count["waiting"] + count["sending"],
            "sending": count["sending"],
            "blocked": count["blocked"],
            "held": count["held"],
            "kept_here": self.kept_here,
            "writing": len(self.open),
            "tracked": sum(h["deletes"] for h in self.tracked_holds),
            "tracked_holds": self.tracked_holds,
            "conflicts": sum(not c["resolved_at"] for c in self.known_conflicts.values()),
            "since_at": NOW if found else None,
            "offline_since_at": self.offline_since_at,
            "paused": self.paused,
        }

    async def pending(self, path: str | None = None, limit: int = 20) -> changes.Pending:
        self.asked.append(("pending", (path, limit)))
        return self.pending_now(path)

    async def difference(self, path: str) -> changes.Difference:
        self.asked.append(("difference", path))
        if self.differs is not None:
            return self.differs
        return {
            "path": path,
            "entity": "syn5",
            "kind": "text",
            "intents": ["update"],
            "base": {"version": 2, "size": 4, "md5": "a" * 32},
            "local": {"version": None, "size": 6, "md5": "b" * 32},
            "moved_from": "",
            "annotations": {"tissue": ["liver"], "draft": None},
            "text": f"--- {path}@2\n+++ {path}\n@@ -1 +1 @@\n-old\n+newer\n",
            "truncated": False,
            "note": "",
            "changes": [],
        }

    async def discard(self, targets: Sequence[str]) -> changes.Discarded:
        self.asked.append(("discard", list(targets)))
        gone = [c for c in self.unsent if c["path"] in targets or c["id"] in targets]
        if not gone:
            raise NotFound(f"nothing at {', '.join(targets)} differs from the service")
        for one in gone:
            if one["path"] in self.open:
                raise Busy(f"{one['path']} is open for writing", path=one["path"])
        self.unsent = [c for c in self.unsent if c not in gone]
        return {"paths": [c["path"] for c in gone], "recovered": len(gone)}

    async def upload_now(self, path: str | None) -> changes.Pending:
        self.asked.append(("upload_now", path))
        return self.pending_now(path)

    async def pause(self) -> changes.Pending:
        self.paused = True
        return self.pending_now()

    async def resume(self) -> changes.Pending:
        self.paused = False
        return self.pending_now()

    async def approve(self, targets: Sequence[str]) -> changes.Approved:
        held = [
            c for c in self.unsent
            if c["state"] == "held" and (not targets or c["path"] in targets or c["id"] in targets)
        ]  # fmt: skip
        if targets and not held:
            raise NotFound(f"no delete is held at {', '.join(targets)}")
        for one in held:
            one["state"] = "waiting"
        return {"paths": [c["path"] for c in held]}

    def conflicts(self, *, all: bool) -> changes.Conflicts:
        found = [c for c in self.known_conflicts.values() if all or not c["resolved_at"]]
        return {"conflicts": found}

    def conflict(self, id: str) -> changes.Conflict:
        if id not in self.known_conflicts:
            raise NotFound(f"there is no conflict {id}")
        return self.known_conflicts[id]

    async def resolve(self, id: str, keep: changes.Keep) -> changes.Conflict:
        self.asked.append(("resolve", (id, keep)))
        self.known_conflicts[id] = {**self.conflict(id), "kept": keep, "resolved_at": NOW}
        return self.known_conflicts[id]

    def add_conflict(self, id: str, path: str) -> None:
        self.known_conflicts[id] = {
            "id": id,
            "at": NOW,
            "path": path,
            "entity": "syn5",
            "reason": "edited",
            "kept": "both",
            "copy_path": f"{path} (conflict here 2023-11-14)",
            "base_version": 2,
            "remote_version": 3,
            "resolved_at": None,
        }

    def recovered(self) -> changes.RecoveredList:
        return {"recovered": self.taken, "folder": "/tmp/recovered"}

    def take(self, id: str, path: str) -> None:
        self.taken.append(
            {
                "id": id,
                "at": NOW,
                "path": path,
                "reason": "deleted",
                "entity": "syn5",
                "where": "trash",
                "size": 10,
            }
        )

    async def restore(self, target: str) -> changes.Restored:
        self.asked.append(("restore", target))
        for one in self.taken:
            if target in (one["id"], one["path"]):
                return {"path": one["path"], "recovered": one}
        raise NotFound(f"nothing was taken away at {target}", path=target)

    async def comment(self, path: str, comment: str, label: str) -> changes.Unsent:
        self.asked.append(("comment", (path, comment, label)))
        return change(path)

    async def annotate(
        self, path: str, values: Mapping[str, Sequence[str]], remove: Sequence[str]
    ) -> changes.Unsent:
        self.asked.append(("annotate", (path, dict(values), list(remove))))
        return change(path, intents=["annotate"])

    async def track(self, folder: str, target: str) -> changes.Tracked:
        self.asked.append(("track", (folder, target)))
        self.folders[folder] = {
            "folder": folder, "entity": "syn4", "path": "/mnt/synapse/P/d", "since_at": NOW,
            "state": "watching", "files": 3, "unsent": 0, "problems": 0, "skipped": [],
            "scanned_at": NOW,
            "reason": "", "mend": "",
        }  # fmt: skip
        return self.folders[folder]

    async def untrack(self, folder: str) -> changes.Tracked:
        if folder not in self.folders:
            raise NotFound(f"{folder} is not tracked", path=folder)
        return self.folders.pop(folder)

    def tracked(self) -> changes.TrackedList:
        return {"tracked": list(self.folders.values())}
