"""`synd registry`: serve the embedded local registry, and seed it. Also ``python -m synd.cli.registry``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from synd.cli import output

app: typer.Typer = typer.Typer(
    help="The local, Synapse-compatible registry: serve it, fill it.", no_args_is_help=True
)

Data = Annotated[Path, typer.Option("--data", help="The registry's folder: database and bytes.")]
AsJson = Annotated[bool, typer.Option("--json", help="One line of JSON instead of text.")]


def register(top: typer.Typer) -> None:
    top.add_typer(app, name="registry", rich_help_panel="Local registry")


@app.command()
def serve(
    data: Data,
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="TCP port on loopback; 0 takes a free one.")
    ] = 0,
    latency_ms: Annotated[float, typer.Option(min=0, help="Added to every request.")] = 0.0,
    mbit: Annotated[
        float, typer.Option(min=0, help="Bound of each byte connection, Mbit/s; 0 is none.")
    ] = 0.0,
    throttle: Annotated[
        bool, typer.Option("--throttle", help="Synapse's own limits: 3 at once, 600 a minute.")
    ] = False,
    url_ttl_s: Annotated[int, typer.Option(min=1, help="Life of presigned URLs, seconds.")] = 900,
    as_json: AsJson = False,
) -> None:
    """Serves the registry on loopback until SIGTERM or Ctrl-C."""
    from synd import log
    from synd.registry.serve import run
    from synd.registry.service import Settings

    log.set_up()

    def ready(url: str, token: str) -> None:
        told = {"url": url, "token": token, "pid": os.getpid()}
        text = f"Registry at {url}\nToken in {data / 'token'}\nCtrl-C stops it."
        output.emit(told, as_json=as_json, human=lambda: output.say(text))
        output.flush()

    settings = Settings(data.absolute(), "127.0.0.1", port, latency_ms, mbit, throttle, url_ttl_s)
    run(settings, ready)


@app.command()
def seed(
    data: Data,
    folder: Annotated[Path, typer.Option("--from", help="The local folder to import.")],
    project: Annotated[str, typer.Option(help="Name of the new project.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Move a project of that name to the trash first.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Imports a folder as a project, linking the bytes; works while the registry is served."""
    from synd.errors import UsageError
    from synd.registry.seed import import_folder
    from synd.registry.web import RefusedError

    try:
        report = import_folder(data.absolute(), folder, project, replace=replace)
    except RefusedError as error:
        raise UsageError(error.reason) from error
    told = report.describe()

    def human() -> None:
        output.say(f"{told['project_id']}  {project}")
        output.say(
            f"{report.files} files, {report.folders} folders, {report.links} links, {report.bytes} bytes"
        )
        for path, name in report.renamed:
            output.say(f"renamed: {path} -> {name}")
        for path, why in report.skipped:
            output.say(f"skipped: {path}: {why}")

    output.emit(told, as_json=as_json, human=human)


if __name__ == "__main__":
    from synd.cli.main import main

    main(["registry", *sys.argv[1:]])
