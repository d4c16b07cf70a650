"""A writable mount against plain dictionaries: what programs do here, what others do there, and restarts.

`Alone` has a project to itself: whatever happens, programs see exactly what they made, offline and over
restarts too, and once everything is sent the service has the same. In `Together` other people change a
second project, into which this machine moves and writes as well: no bytes that were acknowledged are
lost, and each is there once.

With MODEL_EXAMPLES=N in the environment the long test runs N examples.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule, run_state_machine_as_test

from synd.errors import Exists, NotFound, RemoteUnavailable
from synd.ids import EntityId
from synd.mirror.plan import EMPTY
from synd.paths import is_dropping
from tests.model.edit_files import AT
from tests.model.edit_names import Names
from tests.support.editmodel import TOP, File, is_telling, number_of, split

CHANGES = st.sampled_from(["upload", "create", "update", "delete"])
THEIR_NAMES = st.sampled_from(["a", "b", "c.txt"])
CHECKS = (HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much)


class Alone(Names):
    """One machine, and a project that nobody else changes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []

    # What becomes of the daemon and the network.

    @rule(killed=st.booleans(), unmounted=st.booleans())
    def restart(self, killed: bool, unmounted: bool) -> None:
        self.m.restart(killed=killed, unmounted=unmounted)
        self.unsure |= killed
        if not unmounted:
            return
        for handle in self.handles:
            if handle.fixed is None:
                # It was written, and nobody took it back.
                self.saved(handle.file)
        self.handles.clear()
        self.edited.clear()
        self.forget_numbers()

    def forget_numbers(self) -> None:
        for _, what in self.mine.walk():
            what.ino = 0

    @rule(offline=st.booleans())
    def network(self, offline: bool) -> None:
        self.remote.offline = offline

    @rule(call=CHANGES | st.just("find_child"), lose=st.booleans())
    def trouble(self, call: str, lose: bool) -> None:
        if lose and call != "find_child":
            self.remote.lose(call)
            self.unsure = True
        else:
            self.remote.fail(RemoteUnavailable("503"), call=call)

    @rule(call=CHANGES, done=st.booleans())
    def halt(self, call: str, done: bool) -> None:
        """From now on such a change stands still on its way, before or after the service has made it."""
        self.m.halt(call, done=done)

    @rule()
    def go_on(self) -> None:
        self.m.go_on()

    @rule(call=CHANGES, done=st.booleans(), unmounted=st.booleans())
    def die_while_sending(self, call: str, done: bool, unmounted: bool) -> None:
        """The daemon is killed just before, or just after the service has made such a change."""
        self.m.halt(call, done=done)
        self.send_some(6)
        self.restart(killed=True, unmounted=unmounted)

    @rule(seconds=st.sampled_from([1, 3, 6, 6, 40]))
    def send_some(self, seconds: int) -> None:
        self.remote.clock.advance(seconds)
        self.m.step()

    @rule()
    def rest(self) -> None:
        self.m.rest()

    @rule()
    def poll(self) -> None:
        self.m.poll()

    # What must hold.

    @invariant()
    def ours_is_as_it_should_be(self) -> None:
        """Names, kinds, sizes and inode numbers, whatever is under way."""
        if self.machine is None:
            return
        kernel = self.m.kernel
        want = dict(self.mine.walk())
        try:
            seen = kernel.walk(TOP)
        except RemoteUnavailable:
            assert self.remote.offline
            assert self.unsure
            return
        if (found := self.conflicts()) != self.found:
            # What is made anew, as its delete went ahead of it, is another thing to the service.
            self.found = found
            self.forget_numbers()
        assert sorted(want) == sorted(seen), sorted(set(want) ^ set(seen))
        for path, what in want.items():
            attr = kernel.stat(path)
            assert attr.ino == seen[path].ino == (what.ino or attr.ino), path
            what.ino = attr.ino
            if isinstance(what, File) and (attr.size or not self.remote.offline):
                assert attr.size == len(what.data), path

    def settle(self) -> None:
        """Everything is closed, heard and sent."""
        self.remote.offline = False
        self.remote._failures.clear()
        self.remote._lost.clear()
        self.m.go_on()
        for handle in list(self.handles):
            self.check_handle(handle)
            self.close_one(handle)
        self.edited.clear()
        for _ in range(4):
            with suppress(NotFound):
                # A folder may be found to be gone when it is looked into.
                self.m.kernel.walk()
            self.m.poll()
            self.m.settle()
        self.m.rest()

    @rule(now=st.sampled_from([True, False, False, False]))
    def agree(self, now: bool) -> None:
        """Both sides are one in the end, nothing is lost, nothing is there twice."""
        if not now:
            return
        self.settle()
        self.unsure = False
        self.nothing_is_left_to_send()
        view = {
            path: None if entry.mode & 0o40000 else self.m.kernel.content(path)
            for path, entry in self.m.kernel.walk().items()
        }
        self.service_has(view)
        for path, file in self.mine.files():
            seen = view[path]
            assert seen == file.data, (path, len(seen or b""), len(file.data))
        contents = [c for c in view.values() if c is not None and is_telling(c)]
        twice = [c for c, times in Counter(contents).items() if times > 1]
        assert not twice, [number_of(c, self.seed) for c in twice]
        lost = self.kept - set(contents) - self.m.recovered()
        assert not lost, [number_of(c, self.seed) for c in lost]
        for node in self.remote._nodes.values():
            versions = [self.remote.content(r.handle) for r in node.revisions if r.handle]
            assert all(a != b for a, b in pairwise(versions)), node.name
        if not self.others:
            # A delete of ours of which the answer was lost looks like somebody else's.
            assert {"deleted-there"} >= {reason for reason, _ in self.conflicts()}

    def conflicts(self) -> list[tuple[str, str]]:
        """(reason, path) of all that were met."""
        statement = "SELECT reason, path FROM conflict ORDER BY id"
        return [(reason, path) for reason, path in self.m.parts.store.read.execute(statement)]

    def nothing_is_left_to_send(self) -> None:
        unsent = self.m.locals.unsent()
        assert [] == [r for r in unsent if str(EMPTY["title"]) not in (r.problem or "")]
        assert [] == [r for r in self.m.locals.all() if r.gone and r.heir is None]

    def service_has(self, view: Mapping[str, bytes | None]) -> None:
        """All that is seen here but what stays here: droppings, and files without bytes."""
        server: dict[str, Any] = self.m.server()
        for path, content in view.items():
            stays = is_dropping(split(path)[1]) and path not in server
            if stays or content == b"":
                continue
            assert path in server, path
            assert server.pop(path) == content, path
        extra = set(server) - {path for path, content in view.items() if content == b""}
        assert set() == extra

    def teardown(self) -> None:
        if self.machine is None:
            self.storage.close()
            return
        try:
            self.agree(now=True)
        finally:
            self.machine.close()
            self.storage.close()
            shutil.rmtree(self.root, ignore_errors=True)


class Together(Alone):
    """The same, with a second project that other people change too."""

    others = True

    def is_in_limbo(self, entity: EntityId) -> bool:
        """Whether we have made it and not heard of it: who looks for it by its name must find it there, or it
        is made once more.
        """
        handle = self.remote._nodes[entity].current.handle
        unsent = self.m.locals.unsent()
        return handle is not None and any(r.handle == handle and r.entity is None for r in unsent)

    def theirs(self, at: int, *, folders: bool) -> EntityId | None:
        """Something of the other project as it is on the service now."""
        found = sorted(
            path
            for path, content in self.m.server().items()
            if path.startswith("Ours/") and (content is None) is folders
        )
        return self.m.entity(found[at % len(found)]) if found else None

    def their_folder(self, at: int) -> EntityId:
        return (self.theirs(at, folders=True) if at % 2 else None) or self.m.entity("Ours")

    def current(self, entity: EntityId) -> Iterator[bytes]:
        """What others see of an entity and of all below it."""
        node = self.remote._nodes[entity]
        if node.current.handle is not None:
            yield self.remote.content(node.current.handle) or b""
        for below in self.remote._below(entity):
            yield from self.current(below.id)

    @rule(at=AT, size=st.sampled_from([9, 700]))
    def edit_there(self, at: int, size: int) -> None:
        entity, content = self.theirs(at, folders=False), self.content(size)
        if entity is not None:
            for before in self.current(entity):
                self.replaced_there(before)
            self.remote.new_version(entity, content)
            self.acknowledge(content)

    @rule(at=AT, name=THEIR_NAMES, folder=st.booleans())
    def make_there(self, at: int, name: str, folder: bool) -> None:
        parent, content = self.their_folder(at), self.content(700)
        try:
            if folder:
                self.remote.folder(parent, name)
                return
            self.remote.file(parent, name, content)
        except Exists:
            return
        self.acknowledge(content)

    @rule(at=AT, name=THEIR_NAMES, folder=st.booleans())
    def rename_there(self, at: int, name: str, folder: bool) -> None:
        entity = self.theirs(at, folders=folder)
        if entity is None or self.is_in_limbo(entity):
            return
        try:
            self.remote.rename(entity, name)
        except Exists:
            return

    @rule(at=AT, to=AT, folder=st.booleans())
    def move_there(self, at: int, to: int, folder: bool) -> None:
        entity, parent = self.theirs(at, folders=folder), self.their_folder(to)
        if entity is None or parent == entity or self.is_in_limbo(entity):
            return
        if self.remote._under(self.remote._nodes[parent], {entity}):
            return
        try:
            self.remote.move(entity, parent)
        except Exists:
            return

    @rule(at=AT, folder=st.booleans())
    def delete_there(self, at: int, folder: bool) -> None:
        entity = self.theirs(at, folders=folder)
        if entity is not None:
            for before in self.current(entity):
                self.replaced_there(before)
            self.remote.trash(entity)


def _settings(examples: int, steps: int) -> settings:
    return settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True,
        suppress_health_check=CHECKS,
    )  # fmt: skip


def _case(machine: type[Alone], examples: int, rule: str) -> Any:
    case = machine.TestCase
    case.settings = _settings(examples, 30)
    case.runTest.__doc__ = rule
    return case


TestAlone = _case(Alone, 30, "Programs see what they made, and so does the service in the end.")
TestTogether = _case(Together, 30, "No bytes of anybody are lost, nor doubled.")


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [Alone, Together])
def test_edits_when_made_long_stay_true(machine: type[Alone]) -> None:
    """The same over many more steps."""
    examples = int(os.environ.get("MODEL_EXAMPLES", "100"))

    run_state_machine_as_test(machine, settings=_settings(examples, 60))
