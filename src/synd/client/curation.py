"""Curation tasks: what a project wants to have curated (synapse-rest.md 7.8)."""

from __future__ import annotations

from synd.client import once, wire_curation
from synd.client.pages import all_of
from synd.client.transport import Transport
from synd.client.wire_curation import CurationTask
from synd.clock import Deadline
from synd.errors import Exists, UsageError
from synd.ids import EntityId, syn


class CurationCalls:
    """The service's curation tasks."""

    _transport: Transport

    async def curation_tasks(
        self, project: EntityId, *, deadline: Deadline | None = None
    ) -> list[CurationTask]:
        """All tasks of a project. Cost: a request a page."""

        async def page(token: str | None) -> tuple[list[CurationTask], str | None]:
            body = {"projectId": syn(project), "nextPageToken": token}
            return wire_curation.task_page(
                await self._transport.json(
                    "POST", "/curation/task/list", body, deadline=deadline, entity=syn(project)
                )
            )

        return await all_of("curation tasks", page)

    async def curation_task(self, task: int, *, deadline: Deadline | None = None) -> CurationTask:
        """One task. Raises NotFound."""
        return wire_curation.curation_task(
            await self._transport.json("GET", f"/curation/task/{task}", deadline=deadline)
        )

    async def create_curation_task(
        self,
        project: EntityId,
        data_type: str,
        instructions: str,
        *,
        record_set: EntityId | None = None,
        folder: EntityId | None = None,
        file_view: EntityId | None = None,
        deadline: Deadline | None = None,
    ) -> CurationTask:
        """A new task: record-based with a record set, file-based with a folder (and its view).

        Raises Exists when the project has another task of this data type (one that is the same in all is taken
        for ours, whose answer was lost); UsageError.
        """
        if (record_set is not None) == (folder is not None):
            raise UsageError(
                "a curation task is about a record set, or about the files of a folder",
                hint="name one of them",
            )
        body = {
            "projectId": syn(project),
            "dataType": data_type,
            "instructions": instructions,
            "taskProperties": wire_curation.task_properties(record_set, folder, file_view),
        }
        try:
            answer = await self._transport.json(
                "POST", "/curation/task", body, deadline=deadline, entity=syn(project)
            )
        except Exists:
            wanted = (data_type, instructions, record_set, folder, file_view)
            for task in await self.curation_tasks(project, deadline=deadline):
                about = (task.record_set, task.folder, task.file_view)
                if (task.data_type, task.instructions, *about) == wanted:
                    return task
            raise
        return wire_curation.curation_task(answer)

    async def delete_curation_task(self, task: int, *, deadline: Deadline | None = None) -> None:
        """Deletes a task, and nothing of what it is about. Raises NotFound."""
        await once.delete(self._transport, f"/curation/task/{task}", deadline=deadline)
