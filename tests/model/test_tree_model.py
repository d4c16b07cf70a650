"""The tree against a plain dictionary: whatever others do, a poll of everything shows what is there.

Between two polls a folder may be shown as it was at an earlier moment, but always as it once was; and
whatever is read is the content of the version that the node names.
"""

from __future__ import annotations

import shutil
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from synd.errors import Exists, NotFound, SyndError
from synd.ids import EntityId
from synd.testing import FakeRemote, FakeStorage
from syndd.mount.nodes import folder_node, unpack
from syndd.mount.ops import ROOT
from tests.support.parts import Parts, got, noise

NAMES = ("a", "b", "c.txt", "d", ".", "x" * 256)
SIZES = st.sampled_from([0, 1, 700, 20_000])
LARGE = (1 << 20) + 70_000
CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


class TreeMachine(RuleBasedStateMachine):
    """A service that others change, a mount that looks now and then, a daemon that is started anew."""

    def __init__(self) -> None:
        super().__init__()
        self.root = Path(tempfile.mkdtemp(prefix="synd-model-"))
        self.remote = FakeRemote()
        self.storage = FakeStorage(self.remote)
        self.storage.__enter__()
        self.parts = self.start()
        self.seed = 0
        self.project = EntityId(0)
        self.folders: list[EntityId] = []
        self.files: list[EntityId] = []
        self.contents: dict[tuple[EntityId, int], bytes] = {}
        """What each version of each file holds."""
        self.past: dict[int, list[dict[str, tuple[EntityId, int]]]] = defaultdict(list)
        """What each folder held at any moment: names to (entity, version)."""
        self.handles: dict[int, tuple[int, bytes]] = {}
        """Open files: handle to (node, content)."""
        self.next_handle = 1

    def start(self) -> Parts:
        return Parts(self.root, self.remote, size_wait_s=20.0, connections=4, hold_s=20.0)

    @initialize()
    def begin(self) -> None:
        self.project = self.remote.project("P")
        self.folders.append(self.project)
        self.remember()

    # The model: what the service shows, and showed.

    def alive(self, entity: EntityId) -> bool:
        return not self.remote._gone(self.remote._nodes[entity])

    def now(self, folder: EntityId) -> dict[str, tuple[EntityId, int]]:
        found: dict[str, tuple[EntityId, int]] = {}
        for node in self.remote._below(folder):
            version = 0 if node.id in self.folders else node.current.number
            found[node.name] = (node.id, version)
        return found

    def remember(self) -> None:
        for folder in self.folders:
            state = self.now(folder)
            if not self.past[folder] or self.past[folder][-1] != state:
                self.past[folder].append(state)

    def content(self, size: int) -> bytes:
        self.seed += 1
        return noise(size, self.seed)

    def pick(self, data: Any, among: list[EntityId]) -> EntityId | None:
        there = [e for e in among if self.alive(e)]
        return data.draw(st.sampled_from(there)) if there else None

    # What others do.

    @rule(data=st.data(), name=st.sampled_from(NAMES), size=SIZES, large=st.integers(0, 9))
    def create_file(self, data: Any, name: str, size: int, large: int) -> None:
        folder = self.pick(data, self.folders)
        assert folder is not None
        content = self.content(LARGE if large == 0 else size)
        try:
            made = self.remote.file(folder, name, content)
        except Exists:
            return
        self.files.append(made)
        self.contents[made, 1] = content
        self.remember()

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def create_folder(self, data: Any, name: str) -> None:
        folder = self.pick(data, self.folders)
        assert folder is not None
        if len(self.folders) > 8:
            return
        try:
            self.folders.append(self.remote.folder(folder, name))
        except Exists:
            return
        self.remember()

    @rule(data=st.data(), size=SIZES)
    def new_version(self, data: Any, size: int) -> None:
        file = self.pick(data, self.files)
        if file is not None:
            content = self.content(size)
            number = self.remote.new_version(file, content)
            self.contents[file, number] = content
            self.remember()

    @rule(data=st.data(), name=st.sampled_from(NAMES))
    def rename(self, data: Any, name: str) -> None:
        entity = self.pick(data, self.files + self.folders[1:])
        if entity is not None:
            try:
                self.remote.rename(entity, name)
            except Exists:
                return
            self.remember()

    @rule(data=st.data())
    def exchange_names(self, data: Any) -> None:
        one = self.pick(data, self.files)
        folder = None if one is None else self.remote._nodes[one].parent
        other = self.pick(data, [f for f in self.files if self.remote._nodes[f].parent == folder])
        if one is None or other is None or one == other:
            return
        first, second = (self.remote._nodes[e].name for e in (one, other))
        self.remote.rename(one, "aside")
        self.remember()
        self.remote.rename(other, first)
        self.remember()
        self.remote.rename(one, second)
        self.remember()

    @rule(data=st.data())
    def move(self, data: Any) -> None:
        entity = self.pick(data, self.files + self.folders[1:])
        target = self.pick(data, self.folders)
        if entity is None or target is None:
            return
        at: EntityId | None = target
        while at is not None:
            if at == entity:
                return
            at = self.remote._nodes[at].parent
        try:
            self.remote.move(entity, target)
        except Exists:
            return
        self.remember()

    @rule(data=st.data())
    def delete(self, data: Any) -> None:
        entity = self.pick(data, self.files + self.folders[1:])
        if entity is not None:
            self.remote.trash(entity)
            self.remember()

    @rule(data=st.data(), value=st.text("xyz", max_size=3))
    def annotate(self, data: Any, value: str) -> None:
        entity = self.pick(data, self.files)
        if entity is not None:
            self.remote.annotate(entity, note=value)

    # What becomes of the daemon.

    @rule()
    def restart(self) -> None:
        self.parts.close()
        self.parts = self.start()

    @rule(offline=st.booleans())
    def network(self, offline: bool) -> None:
        self.remote.offline = offline

    @rule()
    def poll_everything(self) -> None:
        if self.remote.offline:
            self.parts.poll()
            return
        # A folder that a poll discovers is looked into, and then the whole is as it is there.
        self.walk(ROOT)
        self.parts.poll()
        seen = self.walk(ROOT)
        want: dict[str, tuple[EntityId, int]] = {}
        self.expected(self.project, "P", want)
        assert want == {path: what for path, what in seen.items() if path != "P"}

    @rule(data=st.data())
    def poll_one(self, data: Any) -> None:
        listed = self.parts._listed()
        if listed:
            self.parts.poll(data.draw(st.sampled_from(listed)))

    def expected(self, folder: EntityId, path: str, into: dict[str, tuple[EntityId, int]]) -> None:
        for name, (entity, version) in self.now(folder).items():
            spelled = self.spelled(name, entity)
            into[f"{path}/{spelled}"] = (entity, version)
            if entity in self.folders:
                self.expected(entity, f"{path}/{spelled}", into)

    @staticmethod
    def spelled(name: str, entity: EntityId) -> str:
        """As the mount spells it."""
        if name == ".":
            return "%2E"
        mark = f" %syn{entity}"
        return name if len(name) <= 255 else name[: 255 - len(mark)] + mark

    # What programs see.

    def walk(self, node: int, path: str = "") -> dict[str, tuple[EntityId, int]]:
        got(self.parts.fs.opendir(node))
        found: dict[str, tuple[EntityId, int]] = {}
        for entry in list(got(self.parts.fs.readdir(node, 0, plus=True))):
            here = f"{path}/{entry.name.decode()}".lstrip("/")
            try:
                attr = got(self.parts.fs.lookup(node, entry.name))
            except NotFound:
                continue
            what = unpack(attr.node)
            found[here] = (what.entity, what.version)
            if what.entity in self.folders:
                try:
                    found |= self.walk(attr.node, here)
                except SyndError:
                    del found[here]
            else:
                assert len(self.contents[what.entity, what.version]) == attr.size
        return found

    @rule(data=st.data())
    def look_into_a_folder(self, data: Any) -> None:
        """Each name as it was at some moment: what is asked about by itself comes and goes before the listing."""
        folder = data.draw(st.sampled_from(self.folders))
        try:
            got(self.parts.fs.opendir(folder_node(folder)))
            entries = list(got(self.parts.fs.readdir(folder_node(folder), 0, plus=False)))
        except SyndError:
            return
        shown = {(e.name.decode(), e.ino) for e in entries}
        held = {
            (self.spelled(name, e), e)
            for state in self.past[folder]
            for name, (e, _) in state.items()
        }
        assert shown <= held
        assert len(shown) == len({name for name, _ in shown})

    @rule(data=st.data())
    def read_a_file(self, data: Any) -> None:
        """The bytes of the version that the node names, or an error; never anything else."""
        if not self.files:
            return
        file = data.draw(st.sampled_from(self.files))
        row = self.parts.tree.entities.find(file)
        path = None if row is None else self.parts.tree.entities.path_of(file)
        if path is None:
            return
        try:
            attr = self.parts.node(b"/".join(path).decode())
            what = unpack(attr.node)
            if what.entity in self.folders:
                return  # The name has passed to a folder.
            content = self.contents[what.entity, what.version]
            if attr.attr_ttl_s:
                assert len(content) == attr.size
            found = self.parts.read_node(attr.node, len(content), handle=self.next_handle)
        except SyndError:
            return
        finally:
            self.next_handle += 1
        assert content == found

    @rule(data=st.data())
    def open_a_file(self, data: Any) -> None:
        """Begins to read; goes on later, whatever comes in between."""
        if not self.files or len(self.handles) > 5:
            return
        file = data.draw(st.sampled_from(self.files))
        path = self.parts.tree.entities.path_of(file)
        if path is None:
            return
        handle, self.next_handle = self.next_handle, self.next_handle + 1
        try:
            node = self.parts.node(b"/".join(path).decode()).node
            with self.parts.opened(node, -handle):
                pass
        except SyndError:
            return
        what = unpack(node)
        if what.entity in self.folders:
            return
        self.handles[handle] = (node, self.contents[what.entity, what.version])

    @precondition(lambda self: self.handles)
    @rule(data=st.data(), close=st.booleans())
    def read_on(self, data: Any, close: bool) -> None:
        """An open file holds what it held when it was opened."""
        handle = data.draw(st.sampled_from(sorted(self.handles)))
        node, content = self.handles[handle]
        start = data.draw(st.integers(0, max(0, len(content) - 1)))
        try:
            found = self.parts.read_at(node, handle, start, min(5000, len(content) - start))
        except SyndError:
            # Offline, or deleted with all its versions.
            found = content[start : start + 5000]
        assert content[start : start + 5000] == found
        if close:
            self.parts.fs.release(node, handle)
            del self.handles[handle]

    @invariant()
    def nothing_waits_for_ever(self) -> None:
        """Every question of this thread was answered, so what is still waited for is the daemon's own."""
        assert all(w.reason != "reading a file" for w in self.parts.waits.all())

    def teardown(self) -> None:
        self.parts.close()
        self.storage.close()
        shutil.rmtree(self.root, ignore_errors=True)


def machine(examples: int, steps: int) -> Any:
    test = TreeMachine.TestCase
    test.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=CHECKS,
        print_blob=True,
    )
    return test


TestTree = machine(60, 40)
TestTree.runTest.__doc__ = "After a poll of everything the tree equals the service."


@pytest.mark.slow
def test_tree_when_changed_long_stays_a_mirror():
    """The same over many more steps."""
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        TreeMachine,
        settings=settings(
            max_examples=200,
            stateful_step_count=60,
            deadline=None,
            suppress_health_check=CHECKS,
            print_blob=True,
        ),
    )
