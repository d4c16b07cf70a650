"""The service's asynchronous jobs, once for all of them: start, poll, get (synapse-rest.md 5)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from synd.client import wire
from synd.client.transport import Transport
from synd.clock import Deadline
from synd.errors import ProtocolError, SyndError, UsageError

_FIRST_LOCAL_S: Final = 0.05
_FIRST_S: Final = 0.3
_GROWTH: Final = 1.4
_LONGEST_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class JobProgress:
    """What the service says of a job under way."""

    message: str
    current: int
    total: int


async def run_job(
    transport: Transport,
    path: str,
    body: object,
    *,
    deadline: Deadline,
    service: str = "repo",
    entity: str | None = None,
    progress: Callable[[JobProgress], object] | None = None,
    replay: bool = True,
) -> wire.Json:
    """The result of the job that ``POST {path}/async/start`` begins, as JSON.

    Polls at a growing interval. `replay`: whether it may be begun again when the answer to its start was lost. Raises what the job failed with, and DeadlineExceeded; a job given up
    goes on there and comes to nothing here.
    """
    started = await transport.json(
        "POST",
        f"{path}/async/start",
        body,
        service=service,
        deadline=deadline,
        entity=entity,
        replay=replay,
    )
    token = wire.job_token(started)
    wait_s = _FIRST_LOCAL_S if transport.endpoints.is_loopback else _FIRST_S
    while True:
        status, answer = await transport.call(
            "GET", f"{path}/async/get/{token}", service=service, deadline=deadline, entity=entity
        )
        if not isinstance(answer, dict):
            raise ProtocolError("the service's answer is no job result", entity=entity)
        state = answer.get("jobState")
        if state == "FAILED":
            raise _failure(answer, entity)
        if status != 202 and state != "PROCESSING":
            return answer
        if progress is not None:
            progress(_progress(answer))
        deadline.check()
        await asyncio.sleep(min(wait_s, deadline.left_s()))
        wait_s = min(_LONGEST_S, wait_s * _GROWTH)


def _failure(answer: wire.Json, entity: str | None) -> SyndError:
    said = str(answer.get("errorMessage") or "the job failed there, without a reason")
    return UsageError(said, entity=entity)


def _progress(answer: wire.Json) -> JobProgress:
    def number(key: str) -> int:
        value = answer.get(key)
        return value if isinstance(value, int) else 0

    return JobProgress(
        str(answer.get("progressMessage") or ""),
        number("progressCurrent"),
        number("progressTotal"),
    )
