"""One request of a session goes wrong, whichever it is: in the end the service has what was wanted, once.

A scripted session of every kind of edit is sent by the real client to a real registry. In each run one
request is refused, or its connection is cut before or after the registry has carried it out. What is
wanted at the end is what the same session comes to when nothing goes wrong. The usual form takes one
position of each kind of request and fault; `CRASH_CYCLES` above 20 takes every position.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import re
import zlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, cast

import pytest

from synd.client.credentials import Token, from_base
from synd.client.service import SynapseClient
from synd.client.upload import MIN_PART
from synd.retry import RetryPolicy
from synd.testing import FakeClock, FakeRemote
from tests.support.crashing import CYCLES
from tests.support.pushing import World
from tests.support.world import Remote, remote

LARGE = MIN_PART + 5
"""Two parts."""
STUBBORN = RetryPolicy(tries=5, base_s=0.005, cap_s=0.02)
"""The client tries again by itself."""
PLAIN = RetryPolicy(tries=1)
"""Whatever fails is left to the pusher."""

_NUMBERS = re.compile(r"[0-9a-f]{32}|(?<=/syn)[0-9]+|(?<=/)[0-9]+(?=/|$)")
_MARK = re.compile(r" \(conflict here [^()]*\)")


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Fault(NamedTuple):
    """One way in which a request goes wrong."""

    name: str
    rule: dict[str, Any]
    method: str = "*"
    path: str = "."
    """What it makes sense for; a pattern."""

    def concerns(self, kind: str) -> bool:
        method, _, path = kind.partition(" ")
        return self.method in ("*", method) and bool(re.search(self.path, path))


FAULTS = [
    Fault("500", {"action": "status", "status": 500}),
    Fault("503", {"action": "status", "status": 503}),
    Fault("429", {"action": "status", "status": 429}),
    Fault("412", {"action": "status", "status": 412}, "PUT", "^/repo/v1/entity/"),
    Fault("dropped", {"action": "drop-before"}),
    Fault("unheard", {"action": "drop-after"}),
    Fault("cut", {"action": "truncate", "bytes": 1000}, "PUT", "^/part/"),
    Fault("spoilt", {"action": "corrupt", "bytes": 1000}, "PUT", "^/part/"),
    Fault("expired", {"action": "expire"}, "PUT", "^/part/"),
    Fault("not added", {"action": "add-failed"}, "PUT", "/add/"),
]


class Outcome(NamedTuple):
    """What the service has at the end. Conflict copies are spelled without their time."""

    tree: dict[str, tuple[str | None, int]]
    """Path → content and version."""
    annotations: dict[str, dict[str, list[str]]]
    links: dict[str, str]
    conflicts: list[tuple[str, str]]


class Session:
    """A project with things in it, edited here and by others, and sent by the real client."""

    def __init__(self, root: Path, server: Remote, name: str, policy: RetryPolicy) -> None:
        self.server = server
        self.name = name
        self.seed = zlib.crc32(name.encode())
        self.project = server.project(name)
        self._known: dict[str, str] = {}
        self.held = self._seed()
        self.client = SynapseClient(from_base(server.url), Token(server.token), policy=policy)
        clock = SimpleNamespace(clock=FakeClock(), content=lambda _handle: b"")
        self.world = World(
            root,
            cast("FakeRemote", clock),
            through=cast("Any", self.client),
            uploads_at_once=1,
            login_wait_s=0.002,
        )

    def _seed(self) -> dict[str, str]:
        held: dict[str, str] = {}
        for folder in ("old", "old/inner", "from"):
            parent, _, name = folder.rpartition("/")
            held[folder] = self.server.folder(held.get(parent, self.project), name)
        for path in (
            "a", "b", "c", "m", "p", "q", "same", "theirs", "unwanted", "old/1", "old/inner/2",
            "from/moved", "from/edited",
        ):  # fmt: skip
            parent, _, name = path.rpartition("/")
            data = self.bytes(f"first {path}")
            held[path] = self.server.file(held.get(parent, self.project), name, data)
        return held

    def bytes(self, text: str) -> bytes:
        """A content of this session alone, as the service must not know it; `outcome` calls it `text`."""
        data = f"{text} of {self.name}\n".encode()
        if text == "large":
            data = random.Random(self.seed).randbytes(LARGE)
        self._known[md5_of(data)] = text
        return data

    def at(self, path: str) -> str:
        return f"{self.name}/{path}"

    def edit(self) -> None:
        """Every kind of edit; others change two things meanwhile."""
        world = self.world
        world.list_all()
        self.server.new_version(self.held["theirs"], self.bytes("of others"))
        self.server.file(self.project, "taken", self.bytes("of others"))
        world.write(self.at("a"), self.bytes("second a"))
        world.write(self.at("new"), self.bytes("new"))
        world.mkdir(self.at("d"))
        world.mkdir(self.at("d/e"))
        world.write(self.at("d/e/deep"), self.bytes("deep"))
        world.write(self.at("noted"), self.bytes("noted"))
        world.overlay.annotate(world.seen(self.at("noted")), "k", ("STRING", ("v",)))
        world.overlay.annotate(world.seen(self.at("m")), "k", ("STRING", ("v", "w")))
        world.rename(self.at("b"), self.at("b2"))
        world.rename(self.at("from/moved"), self.at("d/e/moved"))
        world.write(self.at("from/edited"), self.bytes("edited"))
        world.rename(self.at("from/edited"), self.at("d/renamed"))
        world.remove(self.at("c"))
        world.remove(self.at("old/1"))
        world.remove(self.at("old/inner/2"))
        world.remove(self.at("old/inner"))
        world.remove(self.at("old"))
        world.remove(self.at("unwanted"))
        world.symlink(self.at("link"), "m")
        for old, new in (("p", "t"), ("q", "p"), ("t", "q")):
            world.rename(self.at(old), self.at(new))
        world.write(self.at("theirs"), self.bytes("ours"))
        world.write(self.at("taken"), self.bytes("ours"))
        large = self.bytes("large")
        world.write(self.at("large"), large)
        # Known to the service by then, so that it is not sent again.
        world.mkdir(self.at("z"))
        world.write(self.at("z/again"), large)

    def outcome(self) -> Outcome:
        """What became of it. Raises AssertionError when something is left to do."""
        world = self.world
        assert {} == world.states()
        tree, notes, links = {}, {}, {}
        for path, held in self.server.tree(self.project).items():
            spelled = _MARK.sub(" (conflict)", path)
            assert spelled not in tree, path
            content = None if held.md5 is None else self._known.get(held.md5, held.md5)
            tree[spelled] = (content, held.version)
            if held.kind == "link":
                told = self.server.rest("GET", f"/entity/{held.id}")
                links[spelled] = told["linksTo"]["targetId"]
            elif held.kind == "file":
                told = self.server.rest("GET", f"/entity/{held.id}/annotations2")["annotations"]
                if told:
                    notes[spelled] = {key: value["value"] for key, value in told.items()}
        conflicts = sorted((c.path, c.reason) for c in world.conflicts.list(all=True))
        return Outcome(tree, notes, links, conflicts)

    def shown(self) -> set[str]:
        """Paths as the mount would show them, once the service was asked anew."""
        self.world.list_all()
        prefix = f"{self.name}/"
        return {
            _MARK.sub(" (conflict)", path.removeprefix(prefix))
            for path in self.world.view()
            if path.startswith(prefix)
        }

    def close(self) -> None:
        self.world.run(self.client.aclose())
        self.world.close()
        self.server.heal()
        self.server.delete(self.project)
        for digest in self._known:
            Path(self.server.blobs.path(digest)).unlink(missing_ok=True)


@contextlib.contextmanager
def session(root: Path, server: Remote, name: str, policy: RetryPolicy) -> Iterator[Session]:
    one = Session(root, server, name, policy)
    try:
        one.edit()
        server.forget_requests()
        yield one
    finally:
        one.close()


def kind_of(request: dict[str, Any]) -> str:
    """What a request is about, without what differs from session to session."""
    path = request["path"].partition("?")[0]
    return f"{request['method']} {_NUMBERS.sub('#', path)}"


class Clean(NamedTuple):
    """The session when nothing goes wrong."""

    outcome: Outcome
    kinds: list[str]
    """Of its requests, in their order."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    with remote(tmp_path_factory.mktemp("faults") / "data") as one:
        yield one


@pytest.fixture(scope="module")
def clean(server: Remote, tmp_path_factory: pytest.TempPathFactory) -> Clean:
    with session(tmp_path_factory.mktemp("clean"), server, "Clean", STUBBORN) as one:
        one.world.settle()
        asked = server.rest("GET", "/admin/requests?limit=20000")["requests"]
        kinds = [kind_of(r) for r in asked if not r["path"].startswith("/admin")]
        return Clean(one.outcome(), [kind for kind in kinds if not kind.endswith("/version")])


def test_session_when_nothing_goes_wrong_ends_as_it_was_meant(clean: Clean) -> None:
    """What the other tests compare with is right itself."""
    wanted = {
        "a": ("second a", 2),
        "b2": ("first b", 1),
        "d": (None, 1),
        "d/e": (None, 1),
        "d/e/deep": ("deep", 1),
        "d/e/moved": ("first from/moved", 1),
        "d/renamed": ("edited", 2),
        "from": (None, 1),
        "large": ("large", 1),
        "link": (None, 1),
        "m": ("first m", 1),
        "new": ("new", 1),
        "noted": ("noted", 1),
        "p": ("first q", 1),
        "q": ("first p", 1),
        "same": ("first same", 1),
        "taken": ("of others", 1),
        "taken (conflict)": ("ours", 1),
        "theirs": ("of others", 2),
        "theirs (conflict)": ("ours", 1),
        "z": (None, 1),
        "z/again": ("large", 1),
    }
    assert wanted == clean.outcome.tree
    assert {"m": {"k": ["v", "w"]}, "noted": {"k": ["v"]}} == clean.outcome.annotations
    assert {"link"} == set(clean.outcome.links)
    assert ["edited", "name-taken"] == sorted(reason for _, reason in clean.outcome.conflicts)
    for part in ("POST /file/v1/filehandles/copy", "DELETE /repo/v1/entity/", "/annotations2"):
        assert any(part in kind for kind in clean.kinds), part


def go_wrong(
    server: Remote, root: Path, clean: Clean, name: str, policy: RetryPolicy, rule: dict[str, Any]
) -> bool:
    """Runs the session under one fault; whether a request was hit. Fails unless it ends as the clean one."""
    with session(root, server, name, policy) as one:
        server.process.fault(**rule)
        one.world.settle()
        (told,) = server.rest("GET", "/admin/faults")["faults"]
        server.heal()
        found = one.outcome()
        wanted = clean.outcome
        assert wanted.tree == found.tree
        assert wanted.annotations == found.annotations
        assert set(wanted.links) == set(found.links)
        assert found.links["link"] == one.held["m"]
        assert [r for _, r in wanted.conflicts] == [r for _, r in found.conflicts]
        assert set(wanted.tree) == one.shown()
        return bool(told["hits"])


def pattern_of(kind: str) -> dict[str, str]:
    method, _, path = kind.partition(" ")
    return {"method": method, "path": "^" + re.escape(path).replace(r"\#", "[0-9a-f]+") + r"(\?|$)"}


@pytest.mark.slow
@pytest.mark.announces
@pytest.mark.timeout(600)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_one_request_of_each_kind_when_it_goes_wrong_changes_nothing_in_the_end(
    server: Remote, clean: Clean, tmp_path: Path, fault: Fault
) -> None:
    """Each kind in turn, at a position of its own, tried again by the client or by the pusher."""
    positions: dict[str, int] = defaultdict(int)
    for kind in clean.kinds:
        positions[kind] += 1
    number = FAULTS.index(fault)
    for turn, kind in enumerate(sorted(positions)):
        if not fault.concerns(kind):
            continue
        nth = 1 + (number * 7 + turn) % positions[kind]
        policy = (STUBBORN, PLAIN)[(number + turn) % 2]
        name = f"{fault.name} {turn}"
        hit = go_wrong(
            server, tmp_path / str(turn), clean, name, policy,
            {**fault.rule, **pattern_of(kind), "nth": nth},
        )  # fmt: skip
        assert hit, (kind, nth)


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.announces
@pytest.mark.timeout(3600)
@pytest.mark.skipif(CYCLES <= 20, reason="the long form: CRASH_CYCLES above 20")
@pytest.mark.parametrize("policy", [STUBBORN, PLAIN], ids=["client", "pusher"])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.name)
def test_every_request_when_it_goes_wrong_changes_nothing_in_the_end(
    server: Remote, clean: Clean, tmp_path: Path, fault: Fault, policy: RetryPolicy
) -> None:
    """The k-th request, for every k until the session has no more."""
    for nth in itertools.count(1):
        name = f"every {fault.name} {policy.tries} {nth}"
        rule = {**fault.rule, "method": fault.method, "path": fault.path, "nth": nth}
        if not go_wrong(server, tmp_path / str(nth), clean, name, policy, rule):
            break
    assert nth > 0.8 * sum(fault.concerns(kind) for kind in clean.kinds)
