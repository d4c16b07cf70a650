"""A tracker with the kernel's inotify over a folder of the test's own, and a sink that keeps what it is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from synd.ids import EntityId
from synd.store.connect import Store
from synd.store.tracked import Options
from syndd.watch.engine import Status
from syndd.watch.tracker import Tracker
from tests.support.mounts import eventually
from tests.support.tracking import RecordingSink, tree_of

PATIENCE_S = 30.0

QUICK = Options(quiet_s=0.15, open_quiet_s=3.0, scan_every_s=0.3, rescan_every_s=3600.0)


@dataclass
class Place:
    """A tracked folder, the tracker, and what was told of it."""

    base: Path
    store: Store
    options: Options = QUICK
    sink: RecordingSink = field(default_factory=RecordingSink)
    tracker: Tracker | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.base / "tracked"

    def start(self, **settings: Any) -> Tracker:
        """A tracker as after a start of the daemon; tracks the folder if it does not yet."""
        self.tracker = Tracker(self.store, self.sink, **(settings or self.settings))
        self.tracker.start()
        if not self.tracker.roots():
            self.tracker.add(self.folder, EntityId(5), self.options)
        return self.tracker

    def stop(self) -> None:
        if self.tracker is not None:
            assert self.tracker.stop()
            self.tracker = None

    @property
    def status(self) -> Status:
        assert self.tracker is not None
        return self.tracker.status()[0]

    def settled(self) -> None:
        assert self.tracker is not None
        assert self.tracker.wait_settled(PATIENCE_S), self.status

    def same(self, *local: str) -> None:
        """Waits until the sink has what the folder holds, but for what stays `local`."""

        def wanted() -> dict[str, bytes | None]:
            return {
                path: content
                for path, content in tree_of(self.folder).items()
                if not any(path == at or path.startswith(at + "/") for at in local)
            }

        try:
            eventually(lambda: wanted() == self.sink.tree, timeout_s=PATIENCE_S)
        except AssertionError:
            want, have = wanted(), self.sink.tree
            raise AssertionError(
                f"missing {sorted(want.keys() - have.keys())[:20]}, "
                f"too many {sorted(have.keys() - want.keys())[:20]}, "
                f"other {[p for p in want.keys() & have.keys() if want[p] != have[p]][:20]}\n"
                f"{self.status}\n" + "\n".join(self.sink.calls[-30:])
            ) from None
        self.settled()

    def forget(self) -> None:
        """What was told so far is looked at no more."""
        self.settled()
        self.sink.calls.clear()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Not started yet; the folder is there and empty."""
    store = Store(tmp_path / "state" / "state.db")
    found = Place(tmp_path, store)
    found.folder.mkdir()
    yield found
    found.stop()
    store.close()


@pytest.fixture
def watched(place: Place) -> Place:
    """Started, with the folder watched."""
    place.start()
    place.settled()
    return place
