"""`synd info`: all about one entity: version, annotations, provenance, access, and what is here."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import Info


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Look")(info)


def info(
    target: Annotated[
        str, typer.Argument(metavar="PATH|ID", help="A path in the mount, or an id.")
    ],
    as_json: Json = False,
) -> None:
    """Show one entity."""
    from synd.cli.targets import resolve_target
    from synd.control import contract
    from synd.control.connect import Control

    found: Info = Control.here().get(contract.INFO, target=resolve_target(target), timeout_s=90.0)
    output.emit(found, as_json=as_json, human=lambda: _tell(found))


def _tell(i: Info) -> None:
    label = f" ({i['version_label']})" if i["version_label"] not in ("", str(i["version"])) else ""
    rows: list[tuple[str, str]] = [
        ("name", i["name"]),
        ("entity", f"{i['kind']} {i['entity']}"),
        ("path", i["path"] or ""),
        ("parent", i["parent"] or ""),
        ("version", "" if i["version"] is None else f"{i['version']}{label}"),
        ("size", "" if i["size"] is None else f"{output.size(i['size'])} ({i['size']} bytes)"),
        ("md5", i["md5"] or ""),
        ("type", i["content_type"] or ""),
        ("link", i["link"] or i["external_url"] or ""),
        ("created", f"{i['created_at']} by {i['created_by']}"),
        ("modified", f"{i['modified_at']} by {i['modified_by']}"),
        ("here", i["state"]),
        ("access", ", ".join(k for k, v in i["access"].items() if v)),
        ("about", i["description"]),
        ("web", i["web"]),
    ]
    for name, text in rows:
        if text:
            output.say(f"{name:<9} {text}")
    for key, values in sorted(i["annotations"].items()):
        output.say(f"{'note':<9} {key} = {', '.join(values)}")
    if i["provenance"]:
        output.say(f"{'made by':<9} {json.dumps(i['provenance'], ensure_ascii=False)}")
