"""`synd config`: list, get, set, unset, path. Works on the file; no daemon is asked."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

import typer

from synd.cli import output
from synd.cli.output import Json

app = typer.Typer(no_args_is_help=True, help="See and change the settings.")

Name = Annotated[
    str, typer.Argument(metavar="NAME", help="A setting; `synd config list` shows all.")
]


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="config", rich_help_panel="Set up")


def _in_force() -> dict[str, Any]:
    from synd.config import load

    return dataclasses.asdict(load())


@app.command("list")
def list_all(as_json: Json = False) -> None:
    """Show every setting that is in force: file, then SYND_… variables, then defaults."""
    from synd.config import Config

    values = _in_force()
    defaults = {f.name: (f.default, f.metadata["doc"]) for f in dataclasses.fields(Config)}
    rows = [
        (name, _text(value), "" if value == defaults[name][0] else "changed", defaults[name][1])
        for name, value in values.items()
    ]
    output.emit(
        {"settings": values},
        as_json=as_json,
        human=lambda: output.table(("setting", "value", "", "meaning"), rows),
    )


@app.command()
def get(name: Name, as_json: Json = False) -> None:
    """Show one setting."""
    value = _in_force()[_known(name)]
    output.emit(
        {"name": name, "value": value}, as_json=as_json, human=lambda: output.say(_text(value))
    )


@app.command("set")
def set_one(
    name: Name,
    value: Annotated[str, typer.Argument(help="Its value; a list is separated by commas.")],
    as_json: Json = False,
) -> None:
    """Write one setting into the file. A running daemon keeps its own until it starts again."""
    _write({_known(name): value}, as_json=as_json)


@app.command()
def unset(name: Name, as_json: Json = False) -> None:
    """Remove one setting from the file."""
    _write({_known(name): None}, as_json=as_json)


@app.command()
def path(as_json: Json = False) -> None:
    """Show where the settings, the state and the cache lie."""
    from synd.config import folders

    found = folders()
    where = {
        "config": str(found.config_file),
        "state": str(found.state),
        "cache": str(found.cache),
        "runtime": str(found.runtime),
    }
    output.emit(
        where,
        as_json=as_json,
        human=lambda: output.say("\n".join(f"{k:<8} {v}" for k, v in where.items())),
    )


def _known(name: str) -> str:
    from synd.config import Config
    from synd.errors import UsageError

    if name not in {f.name for f in dataclasses.fields(Config)}:
        raise UsageError(f"there is no setting {name!r}", hint="`synd config list` shows all")
    return name


def _write(changes: dict[str, object | None], *, as_json: bool) -> None:
    from synd.config import save

    file = save(changes)
    output.emit(
        {"file": str(file), "changed": list(changes)},
        as_json=as_json,
        human=lambda: output.say(f"written to {file}; `synd restart` makes the daemon use it"),
    )


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
