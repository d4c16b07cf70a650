"""`synd curate`: curation tasks, and the JSON schemas that say what valid means."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from synd.cli import output
from synd.cli.grid_options import STANDARD, Timeout, given, within
from synd.cli.output import Json
from synd.cli.remote import ask, entity
from synd.errors import NotFound, UsageError

if TYPE_CHECKING:
    from synd.client.service import SynapseClient
    from synd.client.wire_curation import CurationTask

app = typer.Typer(help="Curation tasks and JSON schemas. Needs no daemon.", no_args_is_help=True)

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="The id of the project.")]
Task = Annotated[int, typer.Argument(metavar="TASK", help="The number of the task.")]
Type = Annotated[
    str,
    typer.Option(
        "--data-type", metavar="NAME", help="What is curated; one task of each in a project."
    ),
]
Instructions = Annotated[
    str, typer.Option("--instructions", metavar="TEXT", help="For whoever does the work.")
]


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="curate", rich_help_panel="Curation")


@app.command(name="list")
def list_(project: Project, timeout: Timeout = 60.0, as_json: Json = False) -> None:
    """Show the curation tasks of a project."""
    deadline = within(timeout, "listing the curation tasks")
    found = ask(lambda client: client.curation_tasks(entity(project), deadline=deadline))
    output.emit(
        {"tasks": [_told(one) for one in found]},
        as_json=as_json,
        human=lambda: output.table(
            ("task", "data type", "kind", "about"),
            [(str(one.id), one.data_type, one.kind or "?", _about(one)) for one in found],
            right=("task",),
        ) if found else output.say("there are no curation tasks"),
    )  # fmt: skip


@app.command()
def show(task: Task, timeout: Timeout = 60.0, as_json: Json = False) -> None:
    """Show one curation task."""
    deadline = within(timeout, "reading the curation task")
    found = ask(lambda client: client.curation_task(task, deadline=deadline))

    def human() -> None:
        output.say(f"{found.id}  {found.data_type} ({found.kind or 'of a kind unknown here'})")
        output.say(f"project       syn{found.project}")
        output.say(f"about         {_about(found)}")
        if found.file_view is not None:
            output.say(f"file view     syn{found.file_view}")
        if found.instructions:
            output.say(f"instructions  {found.instructions}")

    output.emit({"task": _told(found)}, as_json=as_json, human=human)


@app.command()
def records(
    project: Project,
    template: Annotated[
        Path,
        typer.Argument(
            metavar="CSV",
            help="The record set's first content: a header at least; - is standard input.",
        ),
    ],
    key: Annotated[
        list[str],
        typer.Option(
            "--key",
            metavar="COLUMN",
            help="A column by which a row is known again; may be repeated.",
        ),
    ],
    data_type: Type,
    instructions: Instructions = "",
    folder: Annotated[
        str | None,
        typer.Option("--folder", metavar="ID", help="Where the record set lies: else the project."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="Of the record set: else the file's."),
    ] = None,
    schema: Annotated[
        str | None,
        typer.Option("--schema", metavar="SCHEMA", help="`$id` of the JSON schema to bind to it."),
    ] = None,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Make a record set and a record-based curation task about it.

    Example: `synd curate records syn1 people.csv --key id --data-type People --schema org-people-1.0.0`.
    """
    from synd.curation import create_record_based

    if name is None and str(template) == STANDARD:
        raise UsageError(
            "standard input has no name", hint="--name says what the record set is called"
        )
    deadline = within(timeout, "making the curation task")
    with given(template) as path:
        made = ask(
            lambda client: create_record_based(
                client, entity(project), entity(folder or project), name or template.stem,
                template=path, upsert_key=key, data_type=data_type, instructions=instructions,
                schema=schema, deadline=deadline,
            )
        )  # fmt: skip
    output.emit(
        {"task": _told(made.task), "record_set": f"syn{made.record_set.id}"},
        as_json=as_json,
        human=lambda: output.say(
            f"task {made.task.id} about the record set syn{made.record_set.id}"
        ),
    )


@app.command()
def files(
    project: Project,
    folder: Annotated[str, typer.Argument(metavar="FOLDER", help="Where the files go.")],
    data_type: Type,
    instructions: Instructions = "",
    view: Annotated[
        str | None,
        typer.Option("--view", metavar="ID", help="The view over those files: else one is made."),
    ] = None,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Make a file-based curation task. Example: `synd curate files syn1 syn2 --data-type Images`."""
    from synd.curation import create_file_based

    deadline = within(timeout, "making the curation task")
    made = ask(
        lambda client: create_file_based(
            client, entity(project), entity(folder), data_type=data_type, instructions=instructions,
            file_view=None if view is None else entity(view), deadline=deadline,
        )
    )  # fmt: skip
    output.emit(
        {"task": _told(made)},
        as_json=as_json,
        human=lambda: output.say(f"task {made.id} about the files of syn{made.folder}"),
    )


@app.command()
def delete(
    task: Task,
    delete_file_view: Annotated[
        bool, typer.Option("--delete-file-view", help="Its file view, too, into the trash.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Delete a curation task; its record set and files stay."""
    from synd.curation import delete_task

    output.confirm(f"Delete curation task {task}?", yes=yes)
    deadline = within(timeout, "deleting the curation task")
    view = ask(
        lambda client: delete_task(
            client, task, delete_file_view=delete_file_view, deadline=deadline
        )
    )
    more = "" if view is None else f" and its file view syn{view}"
    output.emit(
        {"deleted": task, "file_view": None if view is None else f"syn{view}"},
        as_json=as_json,
        human=lambda: output.say(f"deleted task {task}{more}"),
    )


@app.command()
def schemas(
    name: Annotated[
        str, typer.Argument(metavar="ORGANIZATION-NAME", help="As in a schema's `$id`.")
    ],
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Show the registered versions of a JSON schema. Example: `synd curate schemas my.org-patient`."""
    organization, dash, own = name.partition("-")
    if not dash or not own or "-" in own:
        raise UsageError(f"{name!r} names no schema", hint="it looks like my.org-patient")
    deadline = within(timeout, "listing the versions of the schema")
    found = ask(lambda client: client.schema_versions(organization, own, deadline=deadline))
    if not found:
        raise NotFound(f"no schema is registered as {name}")
    output.emit(
        {
            "schemas": [
                {"id": one.uri, "version": one.semantic_version, "created_on": one.created_on}
                for one in found
            ]
        },
        as_json=as_json,
        human=lambda: output.table(
            ("schema", "created"), [(one.uri, one.created_on) for one in found]
        ),
    )


@app.command("register")
def register_file(
    schema: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A JSON schema with its `$id`; - is standard input."),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only see whether it could be registered.")
    ] = False,
    timeout: Timeout = 600.0,
    as_json: Json = False,
) -> None:
    """Register a JSON schema; its organization is made when it is not there. Twice is once."""
    from synd.curation import register_schema
    from synd.grid.check import read_schema

    with given(schema) as path:
        found = read_schema(path)
    deadline = within(timeout, "registering the schema")
    made = ask(lambda client: register_schema(client, found, dry_run=dry_run, deadline=deadline))
    said = "could be" if dry_run else "is"
    output.emit(
        {"json_schema": made.uri, "dry_run": dry_run, "known": made.known},
        as_json=as_json,
        human=lambda: output.say(
            f"{made.uri} {'was' if made.known else said} registered{' before' if made.known else ''}"
        ),
    )


@app.command()
def bind(
    target: Annotated[str, typer.Argument(metavar="ID", help="A record set, folder or project.")],
    schema: Annotated[
        str | None, typer.Argument(metavar="SCHEMA", help="The `$id`; not given: show what holds.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="End the binding.")] = False,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Bind a JSON schema to an entity and what is below it. Example: `synd curate bind syn5 my.org-patient`."""
    id = entity(target)
    if remove and schema is not None:
        raise UsageError("a schema is bound or removed, not both", hint="leave out one of them")

    deadline = within(timeout, "binding the schema")

    async def work(client: SynapseClient) -> str | None:
        if remove:
            await client.unbind_schema(id, deadline=deadline)
        elif schema is not None:
            await client.bind_schema(id, schema, deadline=deadline)
        return await client.bound_schema(id, deadline=deadline)

    found = ask(work)
    output.emit(
        {"id": f"syn{id}", "json_schema": found},
        as_json=as_json,
        human=lambda: output.say(f"syn{id}: {found or 'no schema is bound'}"),
    )


def _told(task: CurationTask) -> dict[str, Any]:
    def syn(id: int | None) -> str | None:
        return None if id is None else f"syn{id}"

    return {
        "task": task.id,
        "project": syn(task.project),
        "data_type": task.data_type,
        "kind": task.kind,
        "instructions": task.instructions,
        "record_set": syn(task.record_set),
        "folder": syn(task.folder),
        "file_view": syn(task.file_view),
    }


def _about(task: CurationTask) -> str:
    if task.record_set is not None:
        return f"record set syn{task.record_set}"
    return f"files of syn{task.folder}" if task.folder is not None else "-"
