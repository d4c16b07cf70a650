"""Remote file handles: what they are, and URLs to their bytes (synapse-rest.md 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from synd.client import wire
from synd.client.transport import Transport
from synd.clock import Deadline
from synd.ids import FileHandleId
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
    for some in _batches(refs):
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


def _batches(refs: Sequence[FileRef]) -> Iterator[list[FileRef]]:
    """Each ref once. Answers carry nothing but the file handle's id and come in any order, so a handle
    that several entities share is asked for in several requests.
    """
    left = list(dict.fromkeys(refs))
    while left:
        batch: dict[FileHandleId, FileRef] = {}
        rest: list[FileRef] = []
        for ref in left:
            if len(batch) < BATCH and ref.handle not in batch:
                batch[ref.handle] = ref
            else:
                rest.append(ref)
        yield list(batch.values())
        left = rest


class FileCalls:
    """The part of `Remote` that is about bytes."""

    _transport: Transport

    async def presign(
        self, refs: Sequence[FileRef], *, deadline: Deadline | None = None
    ) -> Sequence[Presigned]:
        return await file_batch(self._transport, refs, deadline=deadline)
