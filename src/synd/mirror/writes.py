"""Rows are written together: while one transaction is under way, the next gathers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from sqlite3 import Connection

from synd.errors import SyndError
from synd.log import fields
from synd.mirror.checkpoints import checkpoint
from synd.mirror.conflicts import News
from synd.mirror.overlay import Overlay
from synd.mirror.tree import Tree

log = logging.getLogger(__name__)

Work = Callable[[Connection], News | None]


class Writes:
    """Transactions of many who write a little each. On the loop of `tree`."""

    def __init__(self, overlay: Overlay, tree: Tree, on_news: Callable[[News], None]) -> None:
        """`on_news` hears what a function changed, once that is committed."""
        self._overlay = overlay
        self._tree = tree
        self._on_news = on_news
        self._waiting: list[tuple[Work, asyncio.Future[News]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Ends what is under way."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)

    async def record(self, work: Work) -> News:
        """Runs a function in a transaction, and tells what it changed once that is committed."""
        future: asyncio.Future[News] = asyncio.get_running_loop().create_future()
        self._waiting.append((work, future))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write(), name="record")
        return await asyncio.shield(future)

    async def _write(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                checkpoint("journal.before-commit")
                results = await self._tree.in_writer(
                    partial(self._write_all, [work for work, _ in batch])
                )
            except BaseException as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(
                            error if isinstance(error, Exception) else SyndError("it was stopped")
                        )
                if not isinstance(error, Exception):
                    raise
                continue
            checkpoint("journal.after-commit")
            for (_, future), result in zip(batch, results, strict=True):
                if isinstance(result, Exception):
                    future.set_exception(result)
                    continue
                future.set_result(result)
                try:
                    self._on_news(result)
                except SyndError as error:
                    # Who listens failed, as on a full disk; those that wait here must hear of theirs.
                    log.warning("push.news_lost", extra=fields(why=error.message))

    def _write_all(self, works: list[Work]) -> list[News | Exception]:
        results: list[News | Exception] = []
        with self._overlay.change() as tx:
            for work in works:
                tx.execute("SAVEPOINT one")
                try:
                    results.append(work(tx) or News())
                except Exception as error:  # noqa: BLE001 - it belongs to who asked for it
                    tx.execute("ROLLBACK TO one")
                    results.append(error)
                tx.execute("RELEASE one")
        return results
