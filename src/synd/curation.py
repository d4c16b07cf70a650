"""Curation tasks and what they are about; the grids in which the work is done are `synd.grid`'s."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from synd.client.wire_curation import CurationTask
from synd.client.wire_grids import CsvFormat, RecordSet
from synd.clock import Deadline
from synd.errors import Exists, NotFound, SyndError, UsageError
from synd.grid import csvfile, spelling
from synd.ids import EntityId, syn
from synd.paths import check_entity_name

if TYPE_CHECKING:
    from synd.client.service import SynapseClient

_BUDGET_S = 600.0


@dataclass(frozen=True, slots=True)
class RecordBased:
    """A record-based task, and the record set that was made for it."""

    task: CurationTask
    record_set: RecordSet


@dataclass(frozen=True, slots=True)
class Registered:
    """A registered schema: its `$id`, and whether it was there before."""

    uri: str
    known: bool


async def register_schema(
    client: SynapseClient,
    schema: Mapping[str, object],
    *,
    dry_run: bool = False,
    deadline: Deadline | None = None,
) -> Registered:
    """Registers a schema under its `$id`, and its organization when that is not there. Twice is once.

    `dry_run`: only looks whether it could be. Raises UsageError for what is no schema or has no `$id`; Exists when
    another schema is registered under that `$id`: a version is never replaced.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "registering the schema")
    uri = schema_id(schema)
    try:
        known = await client.registered_schema(uri, deadline=deadline)
    except NotFound:
        pass
    else:
        if _bare(known) == _bare(schema):
            return Registered(uri, known=True)
        if uri.count("-") == 2:
            raise Exists(
                f"another schema is registered as {uri}",
                hint="give yours a new version in its `$id`: a registered one is never replaced",
            )
    organization = uri.partition("-")[0]
    if not dry_run and not await client.has_organization(organization, deadline=deadline):
        try:
            await client.create_organization(organization, deadline=deadline)
        except Exists:
            # By somebody else just now, or by us and the answer was lost.
            pass
    made = await client.register_schema(schema, dry_run=dry_run, deadline=deadline)
    return Registered(made.uri or uri, known=False)


def schema_id(schema: Mapping[str, object]) -> str:
    """The `$id` of a schema, as ``org-name-1.0.0``. Raises UsageError."""
    uri = schema.get("$id")
    # Some clients write it as an address of the service.
    short = uri.rpartition("/")[2] if isinstance(uri, str) else ""
    if short.count("-") not in (1, 2):
        raise UsageError(
            "the schema has no `$id`" if uri is None else f"{uri!r} is no `$id` of a schema",
            hint='it looks like "my.org-patient-1.0.0"',
        )
    return short


def _bare(schema: Mapping[str, object]) -> dict[str, object]:
    return {key: value for key, value in schema.items() if key != "$id"}


async def create_record_based(
    client: SynapseClient,
    project: EntityId,
    folder: EntityId,
    name: str,
    *,
    template: Path,
    upsert_key: Sequence[str],
    data_type: str,
    instructions: str,
    schema: str | None = None,
    deadline: Deadline | None = None,
) -> RecordBased:
    """Makes a record set from a CSV, binds a schema to it, and a task about it.

    `template`: at least the header; `upsert_key`: the columns by which a row is known again; `schema`: the `$id`.
    What can be known to fail is told before anything is made; what was made stays when a later step fails, and the
    hint says what that was. Raises UsageError for a key that is no column; Exists, Forbidden, NotFound.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "creating the curation task")
    _check_data_type(data_type)
    check_entity_name(name)
    with tempfile.TemporaryDirectory(prefix="synd-curation-") as aside, ExitStack() as stack:
        read = csvfile.whole(template, Path(aside))
        path = await asyncio.to_thread(stack.enter_context, read)
        own = await asyncio.to_thread(
            partial(spelling.either, path, Path(aside) / "own.csv", CsvFormat(), exported=False)
        )
        if own != path:
            stack.enter_context(csvfile.named(own, str(template)))
            path = own
        facts = await asyncio.to_thread(csvfile.facts, path)
        _check_key(upsert_key, facts.names, template)
        await _check_free(client, project, data_type, deadline)
        if schema is not None:
            await client.registered_schema(schema, deadline=deadline)
        ready = path
        if not facts.plain:
            ready = Path(aside) / "service.csv"
            await asyncio.to_thread(spelling.to_service, path, ready, CsvFormat())
        handle = await client.upload_own(ready, name=template.name, deadline=deadline)
    made = await client.create_record_set(folder, name, handle, upsert_key, deadline=deadline)
    try:
        if schema is not None:
            await client.bind_schema(made.id, schema, deadline=deadline)
        task = await client.create_curation_task(
            project, data_type, instructions, record_set=made.id, deadline=deadline
        )
    except SyndError as error:
        _add_hint(error, f"the record set {syn(made.id)} was made and stays")
        raise
    return RecordBased(task, made)


def _check_data_type(data_type: str) -> None:
    if not data_type.strip():
        raise UsageError("a curation task needs a data type: what it is about, such as Specimens")


def _check_key(upsert_key: Sequence[str], names: Sequence[str], template: Path) -> None:
    if not upsert_key:
        raise UsageError("a record set needs a key: columns by which a row is known again")
    for key in upsert_key:
        if key not in names:
            raise UsageError(
                f"the upsert key {key!r} is no column of {template}",
                hint=f"its columns are {', '.join(names)}",
                path=str(template),
            )


async def create_file_based(
    client: SynapseClient,
    project: EntityId,
    folder: EntityId,
    *,
    data_type: str,
    instructions: str,
    file_view: EntityId | None = None,
    deadline: Deadline | None = None,
) -> CurationTask:
    """A task about the files of a folder; without `file_view` a view over them is made, too.

    Raises Exists, Forbidden, NotFound; a view that was made stays when a later step fails, and is found again.
    """
    deadline = deadline or Deadline.after(_BUDGET_S, "creating the curation task")
    _check_data_type(data_type)
    await _check_free(client, project, data_type, deadline)
    # A view is made over whatever number it is told.
    await client.entity(folder, deadline=deadline)
    if file_view is None:
        file_view = await client.create_view(
            project, f"{data_type} files", [folder], deadline=deadline
        )
    try:
        return await client.create_curation_task(
            project, data_type, instructions, folder=folder, file_view=file_view, deadline=deadline
        )
    except SyndError as error:
        _add_hint(error, f"the view {syn(file_view)} is there and stays")
        raise


async def _check_free(
    client: SynapseClient, project: EntityId, data_type: str, deadline: Deadline
) -> None:
    """Raises Exists when the project has a task of that data type: nothing is made then."""
    for task in await client.curation_tasks(project, deadline=deadline):
        if task.data_type == data_type:
            raise Exists(
                f"{syn(project)} has a curation task of the data type {data_type!r}: task {task.id}",
                hint="choose another data type, or work on that task",
            )


async def delete_task(
    client: SynapseClient,
    task: int,
    *,
    delete_file_view: bool = False,
    deadline: Deadline | None = None,
) -> EntityId | None:
    """Deletes a task; with `delete_file_view` also the view of a file-based one, whose id is returned.

    The task goes first: a view without a task hurts nobody, a task without its view cannot be worked on. Raises
    NotFound, UsageError when there is no view to delete (then nothing was).
    """
    view: EntityId | None = None
    if delete_file_view:
        found = await client.curation_task(task, deadline=deadline)
        view = found.file_view
        if view is None:
            raise UsageError(
                f"curation task {task} has no file view: nothing was deleted",
                hint="leave out --delete-file-view",
            )
    await client.delete_curation_task(task, deadline=deadline)
    if view is not None:
        try:
            # One that is gone already is as was wanted, and no error.
            await client.delete(view, deadline=deadline)
        except SyndError as error:
            _add_hint(error, f"the task is deleted, its view {syn(view)} is not")
            raise
    return view


def _add_hint(error: SyndError, text: str) -> None:
    error.hint = f"{text}; {error.hint}" if error.hint else text
