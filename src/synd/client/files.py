"""Remote file handles: what they are, and URLs to their bytes (synapse-rest.md 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from synd.client import wire
from synd.client.transport import Transport
from synd.clock import Deadline
from synd.model import FileRef, Presigned

BATCH: Final = 100
"""Most file handles in one request."""


async def file_batch(
    transport: Transport,
    refs: Sequence[FileRef],
    *,
    kind: str = "FileEntity",
    urls: bool = True,
    deadline: Deadline | None = None,
) -> list[Presigned]:
    """What the service tells of some file handles, in the order asked for. One request per 100.

    `kind` says what `FileRef.entity` is: FileEntity (record sets too) or TableEntity. Without `urls`
    only the handles are asked for. External handles have their own URL, which never expires.
    """
    found: list[Presigned] = []
    # Answers are told apart by file handle id, so one that is asked for twice shares its answer.
    for some in wire.parts(dict.fromkeys(refs), BATCH):
        answer = await transport.json(
            "POST",
            "/fileHandle/batch",
            wire.batch_request(some, kind=kind, urls=urls),
            service="file",
            deadline=deadline,
        )
        found += wire.file_batch(some, answer)
    by_ref = {one.ref: one for one in found}
    return [by_ref[ref] for ref in refs]


class FileCalls:
    """The part of `Remote` that is about bytes."""

    _transport: Transport

    async def presign(
        self, refs: Sequence[FileRef], *, deadline: Deadline | None = None
    ) -> Sequence[Presigned]:
        return await file_batch(self._transport, refs, deadline=deadline)
