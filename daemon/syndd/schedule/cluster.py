"""The connection to a Dask scheduler: kept while the daemon runs, made again when it breaks.

Knows who works there, starts tasks, hears one topic of events and says words to workers. Leaves what
the words mean to `dask`. Everything is on the daemon's loop; `distributed` is imported when it is first needed,
off the loop, as that takes a second.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import importlib
import json
import logging
from collections.abc import Callable, Mapping
from typing import Any, Final

from synd.errors import StageFailed
from synd.jobs.failures import Failure
from synd.log import fields
from synd.processors import remote

log = logging.getLogger(__name__)

CONNECT_S: Final = 5.0
POLL_S: Final = 2.0
"""The scheduler is asked so often who works: a worker that died is missed so soon."""
AGAIN_S: Final = (0.5, 2.0, 5.0)
TELL_S: Final = 10.0
"""A worker that does not answer for so long is not waited for."""


class Cluster:
    """One scheduler, there or not."""

    def __init__(
        self,
        address: str,
        topic: str,
        *,
        on_event: Callable[[Mapping[str, Any]], None],
        on_change: Callable[[], None],
        poll_s: float = POLL_S,
        tell_s: float = TELL_S,
    ) -> None:
        """`on_change` is told when it was looked who works there, or the scheduler went or came."""
        self.address = address
        self.topic = topic
        self.workers: Mapping[str, int] = {}
        """Address of each worker → how many tasks it runs at once."""
        self.life = 0
        """Counts connections: what was begun in an earlier one is lost."""
        self.away = ""
        """Why there is no connection."""
        self._on_event = on_event
        self._on_change = on_change
        self._poll_s = poll_s
        self._tell_s = tell_s
        self.polls = 0
        """Counts how often it was looked who works there."""
        self._client: Any = None

    @property
    def connected(self) -> bool:
        return self._client is not None

    async def run(self) -> None:
        """Keeps the connection, for ever. Raises ImportError where Dask is not installed."""
        distributed: Any = await asyncio.to_thread(importlib.import_module, "distributed")
        tries = 0
        while True:
            client: Any = None
            try:
                client = distributed.Client(
                    self.address, asynchronous=True, set_as_default=False, timeout=CONNECT_S,
                    name="synd", direct_to_workers=False,
                )  # fmt: skip
                await client
                client.subscribe_topic(self.topic, self._hear)
                known = (await client.scheduler.identity())["id"]
                self.workers = dict(await client.scheduler.ncores())
                self._client, self.life = client, self.life + 1
                tries, self.away = 0, ""
                log.info(
                    "dask.connected",
                    extra=fields(scheduler=self.address, workers=len(self.workers)),
                )
                self._on_change()
                await self._watch(client, known)
            except (OSError, TimeoutError, ValueError) as error:
                if not self.away:
                    log.warning("dask.away", extra=fields(scheduler=self.address, why=error))
                self.away = str(error) or type(error).__name__
            except Exception:
                # Of a library that we do not know by heart: nobody else would try again.
                log.exception("dask.failed", extra=fields(scheduler=self.address))
            finally:
                was, self._client, self.workers = self._client, None, {}
                if was is not None:
                    self._on_change()
                if client is not None:
                    await _closed(client)
            await asyncio.sleep(AGAIN_S[min(tries, len(AGAIN_S) - 1)])
            tries += 1

    async def _watch(self, client: Any, known: str) -> None:
        """Until the scheduler is gone, or another is in its place."""
        while client.status == "running":
            await asyncio.sleep(self._poll_s)
            async with asyncio.timeout(CONNECT_S):
                workers = dict(await client.scheduler.ncores())
                if (await client.scheduler.identity())["id"] != known:
                    raise OSError("another scheduler is in its place")
            self.workers = workers
            self.polls += 1
            self._on_change()
        raise OSError("the connection broke")

    def _hear(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict):
            self._on_event(event[1])

    async def result(self, task: Mapping[str, object], key: str) -> str:
        """What `remote.run` gives for a task. Cancelled, the task is taken back if it was not begun.

        Raises StageFailed: NO_WORKER, WORKER_DIED, TOOL_MISSING, INTERNAL.
        """
        if self._client is None:
            raise _away(self.address)
        future = self._client.submit(remote.run, json.dumps(task), key=key, pure=False, retries=0)
        try:
            found: str = await future
        except (asyncio.CancelledError, concurrent.futures.CancelledError) as error:
            if not future.cancelled():
                raise
            # By Dask, not by us: its scheduler forgot the task.
            raise _away(self.address) from error
        except ImportError as error:
            raise StageFailed(
                f"the Dask workers cannot run synd: {error}",
                failure=Failure.TOOL_MISSING,
                hint="pip install 'synd[dask,genomics]' on the scheduler and all workers",
            ) from error
        except OSError as error:
            raise _away(self.address) from error
        except Exception as error:
            died = type(error).__name__ in ("KilledWorker", "NoValidWorkerError")
            raise StageFailed(
                f"the Dask task failed: {type(error).__name__}: {error}",
                failure=Failure.WORKER_DIED if died else Failure.INTERNAL,
            ) from error
        else:
            return found
        finally:
            if not future.done():
                with contextlib.suppress(Exception):
                    async with asyncio.timeout(TELL_S):
                        await future.cancel()
            future.release()

    async def tell(self, worker: str, nonce: str, words: Mapping[str, object]) -> bool:
        """Says something to an attempt; whether it was there to hear it."""
        if self._client is None:
            return False
        try:
            async with asyncio.timeout(self._tell_s):
                answers = await self._client.run(
                    remote.tell, nonce, json.dumps(words), workers=[worker]
                )
        except Exception as error:  # noqa: BLE001 - whatever a worker that dies just now brings about
            log.debug("dask.not_told", extra=fields(worker=worker, why=repr(error)))
            return False
        return bool(answers.get(worker))


def _away(address: str) -> StageFailed:
    return StageFailed(
        f"the Dask scheduler at {address} went away",
        failure=Failure.NO_WORKER,
        hint="its jobs begin again once it is back",
    )


async def _closed(client: Any) -> None:
    # It waits for a scheduler that is gone; what it says then is of no use.
    with contextlib.suppress(Exception):
        async with asyncio.timeout(CONNECT_S):
            await client.close()
