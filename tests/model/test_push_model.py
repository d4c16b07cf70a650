"""Local changes against others' on one service, with failures anywhere: both sides agree in the end.

Whatever was saved here or there is somewhere afterwards: under its name, in a conflict copy, in the
versions of an entity or in the recovery area; only what a user has removed or replaced may be gone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from synd.errors import Exists, NotEmpty, RemoteUnavailable, SyndError
from synd.ids import EntityId
from synd.mirror.overlay import Overlay
from synd.mirror.plan import Mode
from synd.store.entities import Change
from synd.testing import FakeRemote
from tests.support.pushing import World

NAMES = ("a", "b", "c.txt", "d")
CALLS = ("upload", "create", "update", "delete", "entity", "find_child", "children")
CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


def follow(overlay: Overlay, entity: EntityId, *, gone: bool) -> None:
    """Lets rows with nothing to send follow the service: what a folder held goes with it, but not what is
    ours; a name that one of ours has here is waited for.
    """
    local = overlay.locals.of_entity(entity)
    if gone and local is not None and local.is_folder:
        for child in overlay.locals.children(local.key):
            if child.state == "clean" and child.entity is not None and child.base_parent == entity:
                overlay.entities.forget(child.entity)
                follow(overlay, child.entity, gone=True)
        if overlay.locals.has_children(local.key):
            return
    overlay.follow(entity, gone=gone)
    local, row = overlay.locals.of_entity(entity), overlay.entities.find(entity)
    if local is None or row is None or local.state != "clean" or local.gone or local.staged:
        return
    if (row.parent, row.name) != (local.base_parent, local.base_name):
        with overlay.change() as tx:
            overlay.queue(tx, local, delay_s=30.0)


class PushMachine(RuleBasedStateMachine):
    """One machine, other people, one service."""

    mode = Mode.KEEP_BOTH

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="synd-model-"))
        self.remote = FakeRemote()
        self.seed = 0
        self.removed: set[bytes] = set()
        """Bytes that a user here has removed or replaced: they need not be anywhere."""
        self.saved: set[bytes] = set()
        self.lost_there: set[bytes] = set()
        """The same of other people."""
        self.project = self.remote.project("P")
        self.remote.tree(self.project, {"a": b"a0", "d": {"b": b"b0"}})
        self.saved |= {b"a0", b"b0"}
        self.world = self.start()

    def start(self) -> World:
        world = World(
            self.root, self.remote, conflicts=self.mode, delete_hold_percent=100, uploads_at_once=4,
            retry_base_s=0.5,
        )  # fmt: skip

        def heard(changes: Sequence[Change]) -> None:
            for change in changes:
                follow(world.overlay, change.id, gone=change.gone)

        world.tree.on_changes(heard)
        return world

    @initialize()
    def begin(self) -> None:
        self.world.list_all()

    def teardown(self) -> None:
        try:
            self.agree()
        finally:
            self.world.close()
            shutil.rmtree(self.root, ignore_errors=True)

    def content(self) -> bytes:
        self.seed += 1
        found = b"content %d" % self.seed
        self.saved.add(found)
        return found

    # Here.

    def paths(self, data: Any, *, folders: bool) -> str | None:
        found = sorted(
            p
            for p, c in self.world.view().items()
            if (c is None) is folders and "(conflict" not in p
        )
        if not folders:
            found = [p for p in found if p != "P"]
        return data.draw(st.sampled_from(found)) if found else None

    def see(self, path: str) -> bytes | None:
        found = self.world.view().get(path)
        return found if isinstance(found, bytes) else None

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def make_file(self, data: Any, name: str) -> None:
        folder = self.paths(data, folders=True)
        if folder and f"{folder}/{name}" not in self.world.view():
            self.world.write(f"{folder}/{name}", self.content())

    @rule(data=st.data())
    def save(self, data: Any) -> None:
        path = self.paths(data, folders=False)
        if path:
            before = self.see(path)
            if before:
                self.removed.add(before)
            self.world.write(path, self.content())

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def make_folder(self, data: Any, name: str) -> None:
        folder = self.paths(data, folders=True)
        if folder and f"{folder}/{name}" not in self.world.view() and folder.count("/") < 3:
            self.world.mkdir(f"{folder}/{name}")

    @rule(data=st.data(), folder=st.booleans(), name=st.sampled_from(NAMES))
    def rename(self, data: Any, folder: bool, name: str) -> None:
        path, into = self.paths(data, folders=folder), self.paths(data, folders=True)
        if not path or not into or path == "P":
            return
        there = f"{into}/{name}"
        if there == path or there.startswith(f"{path}/"):
            return
        view = self.world.view()
        if there in view and (view[there] is None) is not folder:
            return
        if there in view and view[there] is None and any(p.startswith(f"{there}/") for p in view):
            return
        gone = self.see(there)
        self.world.rename(path, there)
        if gone:
            self.removed.add(gone)

    @rule(data=st.data())
    def remove_file(self, data: Any) -> None:
        path = self.paths(data, folders=False)
        if path:
            content = self.see(path)
            if content:
                self.removed.add(content)
            self.world.remove(path)

    @rule(data=st.data())
    def remove_tree(self, data: Any) -> None:
        top = self.paths(data, folders=True)
        if not top or top == "P":
            return
        for path in sorted(self.world.view(), key=lambda p: -p.count("/")):
            if path == top or path.startswith(f"{top}/"):
                content = self.see(path)
                if content:
                    self.removed.add(content)
                try:
                    self.world.remove(path)
                except NotEmpty:
                    # What somebody else made there has the name of ours, and shows now.
                    return

    # There.

    def theirs(self, data: Any, *, folders: bool) -> EntityId | None:
        found = sorted(
            p for p, c in self.world.server().items() if (c is None) is folders and p != "P"
        )
        return self.world.id_of(data.draw(st.sampled_from(found))) if found else None

    @rule(data=st.data())
    def edit_there(self, data: Any) -> None:
        entity = self.theirs(data, folders=False)
        if entity is not None:
            self.remote.new_version(entity, self.content())

    @rule(data=st.data(), name=st.sampled_from(NAMES), folder=st.booleans())
    def make_there(self, data: Any, name: str, folder: bool) -> None:
        parent = self.theirs(data, folders=True) or self.project
        try:
            if folder:
                self.remote.folder(parent, name)
            else:
                content = self.content()
                try:
                    self.remote.file(parent, name, content)
                except Exists:
                    self.saved.discard(content)
                    raise
        except Exists:
            pass

    @rule(data=st.data(), name=st.sampled_from(NAMES), folder=st.booleans())
    def rename_there(self, data: Any, name: str, folder: bool) -> None:
        entity = self.theirs(data, folders=folder)
        if entity is not None:
            try:
                self.remote.rename(entity, name)
            except Exists:
                return

    @rule(data=st.data(), folder=st.booleans())
    def delete_there(self, data: Any, folder: bool) -> None:
        entity = self.theirs(data, folders=folder)
        if entity is not None:
            self.remote.trash(entity)

    # Between.

    @rule()
    def look(self) -> None:
        try:
            self.world.list_all()
        except SyndError:
            return

    @rule(seconds=st.sampled_from([1, 3, 6]))
    def send_some(self, seconds: int) -> None:
        self.world.clock.advance(seconds)
        self.world.step()

    @rule(call=st.sampled_from(CALLS), lose=st.booleans())
    def trouble(self, call: str, lose: bool) -> None:
        if lose and call in ("upload", "create", "update", "delete"):
            self.remote.lose(call)
        elif not lose:
            self.remote.fail(RemoteUnavailable("503"), call=call)

    @rule()
    def restart(self) -> None:
        self.world.close()
        self.world = self.start()

    @rule()
    @precondition(lambda self: self.seed % 3 == 0)
    def agree(self) -> None:
        """Everything is sent and listed: both sides are one, and no bytes are lost."""
        self.remote._failures.clear()
        self.remote._lost.clear()
        for _ in range(3):
            self.world.settle()
            self.world.list_all()
        assert {} == self.world.states(), self.world.locals.unsent(5)
        server, view = self.world.server(), self.world.view()
        assert server == view, sorted(server.items() ^ view.items(), key=str)
        there = {
            content for stored in self.remote._nodes.values() for r in stored.revisions
            if r.handle is not None and (content := self.remote.content(r.handle)) is not None
        }  # fmt: skip
        kept = {
            self.world.staging.recovered_path(n).read_bytes()
            for n in self.world.staging.recovered_names()
        }
        lost = self.saved - self.removed - there - kept
        assert set() == lost, lost
        assert [] == [row for row in self.world.locals.all() if row.gone]


class OverwritingMachine(PushMachine):
    mode = Mode.OVERWRITE_LOCAL


class KeepingMachine(PushMachine):
    mode = Mode.KEEP_LOCAL


def _case(machine: type[PushMachine], examples: int) -> Any:
    case = machine.TestCase
    case.settings = settings(
        max_examples=examples, stateful_step_count=25, deadline=None, suppress_health_check=CHECKS
    )
    return case


TestKeepBoth = _case(PushMachine, 20)
TestOverwriteLocal = pytest.mark.slow(_case(OverwritingMachine, 20))
TestKeepLocal = pytest.mark.slow(_case(KeepingMachine, 20))
