"""`synd cache`: usage, clear, pin, unpin, verify."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import CacheReply, CacheUsage

app = typer.Typer(no_args_is_help=True, help="See and steer what is kept on this disk.")

Targets = Annotated[
    list[str], typer.Argument(metavar="PATH|ID...", help="Paths in the mount, or entity ids.")
]
MaybeTargets = Annotated[
    list[str] | None, typer.Argument(metavar="[PATH|ID]...", help="None: the whole cache.")
]


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="cache", rich_help_panel="Cache")


@app.command()
def usage(as_json: Json = False) -> None:
    """Show how much lies in the cache, and its bounds."""
    from synd.control import contract
    from synd.control.connect import Control

    found: CacheUsage = Control.here().get(contract.CACHE)

    def tell() -> None:
        bound = output.size(found["limit_bytes"]) if found["limit_bytes"] else "none"
        output.say(f"{found['path']}")
        output.say(
            f"  complete  {found['objects']} objects, {output.size(found['bytes'] - found['partial_bytes'])}"
        )
        output.say(
            f"  partial   {found['partial_objects']} objects, {output.size(found['partial_bytes'])}"
        )
        output.say(f"  pinned    {output.size(found['pinned_bytes'])}")
        output.say(
            f"  bound     {bound}, and {output.size(found['keep_free_bytes'])} of disk stay free"
        )
        output.say(f"  disk free {output.size(found['disk_free_bytes'])}")

    output.emit(found, as_json=as_json, human=tell)


@app.command()
def clear(targets: MaybeTargets = None, as_json: Json = False) -> None:
    """Drop cached bytes; what is pinned, open or unsent stays."""
    _change("CACHE_CLEAR", targets or [], "cleared", as_json=as_json)


@app.command()
def pin(targets: Targets, as_json: Json = False) -> None:
    """Keep files, or folders with all below, from eviction."""
    _change("CACHE_PIN", targets, "pinned", as_json=as_json)


@app.command()
def unpin(targets: Targets, as_json: Json = False) -> None:
    """Let pinned files go again."""
    _change("CACHE_UNPIN", targets, "unpinned", as_json=as_json)


@app.command()
def verify(targets: MaybeTargets = None, as_json: Json = False) -> None:
    """Hash what is cached again, and drop what is damaged. Exit 65 when something was."""
    from synd.cli.jobs import follow
    from synd.cli.targets import resolve_all
    from synd.control import contract
    from synd.control.connect import Control

    control = Control.here()
    started = control.post(contract.CACHE_VERIFY, {"targets": resolve_all(targets or [])})
    job = follow(control, started, "verifying")
    result = job["result"] or {}
    bad = int(str(result.get("bad", 0)))
    output.emit(
        {"job": job},
        as_json=as_json,
        human=lambda: output.say(f"checked {result.get('checked', 0)} objects, {bad} were damaged"),
    )
    if bad:
        raise typer.Exit(65)


def _change(route: str, targets: list[str], done: str, *, as_json: bool) -> None:
    from synd.cli.targets import resolve_all
    from synd.control import contract
    from synd.control.connect import Control

    reply: CacheReply = Control.here().post(
        getattr(contract, route), {"targets": resolve_all(targets)}, timeout_s=300.0
    )

    def tell() -> None:
        output.say(f"{done} {reply['objects']} objects, {output.size(reply['bytes'])}")
        if reply["kept_objects"]:
            output.say(f"{reply['kept_objects']} stay: {reply['kept_reason']}")

    output.emit(reply, as_json=as_json, human=tell)
