"""Edits that are made and taken away over all parts of a daemon, for tests of what comes back."""

from __future__ import annotations

import os
from concurrent.futures import Future

from synd.mirror.recovery import Recovery
from synd.mirror.undoing import Undoing
from synd.store.local import Local
from synd.store.unsent import RecoveredRow, Unsents
from tests.support.parts import Parts, bytes_of, got


class Takings:
    """What a user does through a mount and `synd discard`, without either."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.staging = parts.staging
        self.lazily = parts.contents.lazily
        self.undoing = Undoing(parts.overlay, parts.staging, self.lazily)
        self.list = Unsents(parts.store)

    def recovery(self, **bounds: int) -> Recovery:
        return Recovery(self.parts.overlay, self.staging, self.lazily, **bounds)

    def create(self, folder: str, name: str, data: bytes) -> Local:
        """A new file with these bytes, closed."""
        key = self.parts.node(folder).ino
        local, staged = self.parts.overlay.create_file(key, name.encode(), mode=0o644, uid=0, gid=0)
        os.close(self.parts.contents.created(staged))
        return self.write(local, staged, 0, data)

    def edit(self, path: str, at: int, data: bytes) -> Local:
        """A file of the service with other bytes somewhere, closed."""
        seen = self.parts.overlay.seen(self.parts.node(path).ino)
        assert seen is not None
        local = got(self.parts.contents.stage(seen))
        return self.write(local, local.staged, at, data)

    def write(self, local: Local, staged: int, at: int, data: bytes) -> Local:
        contents = self.parts.contents
        contents.opened(staged, 1, writes=True)
        assert len(data) == got(contents.write(staged, at, memoryview(data)))
        done = contents.closed(staged)
        assert done is not None
        done.result(20)
        contents.released(staged, 1)
        return self.parts.overlay.locals.get(local.id)

    def take(self, local: Local) -> RecoveredRow:
        """Discards an edit; what is listed of it."""
        self.undoing.discard(local.id)
        return self.list.recovered(1)[0]

    def restore(self, row: RecoveredRow) -> Local:
        found = self.parts.overlay.seen(self.undoing.restore(row.id))
        assert found is not None
        assert found.local is not None
        return found.local

    def bytes_of(self, local: Local) -> bytes:
        """What the mount would show, waited for."""
        staged, size = local.staged, self.parts.contents.stat(local.staged).st_size
        self.parts.contents.opened(staged, 9, writes=False)
        try:
            answer = self.parts.contents.read(staged, 0, size)
            return bytes_of(answer.result(20) if isinstance(answer, Future) else answer)
        finally:
            self.parts.contents.released(staged, 9)
