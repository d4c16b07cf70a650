"""`synd url`: the address of a prepared file for genome browsers, which cannot use the mount or the socket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.connect import Control
    from synd.control.contract import Browsers, Status


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Jobs")(url)


def url(
    target: Annotated[
        str, typer.Argument(metavar="PATH|ID", help="A file in the mount, or an entity id.")
    ],
    index: Annotated[
        bool, typer.Option("--index", "-i", help="The address of its index instead.")
    ] = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="The file, or the index beside it, as the service has it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Print the address under which a genome browser on this machine reads a file by region.

    It holds the token of the loopback listener (setting http_listen): whoever knows it reads all that you may.
    Example: `synd url reads.bam`.
    """
    from urllib.parse import quote, urlencode

    from synd.control import contract, ready
    from synd.control.connect import Control
    from synd.errors import NotFound

    control = Control.here()
    address, token = _listener(control.get(contract.STATUS))
    entity = _entity(control, target)
    made: dict[str, str] = {}
    prepared = True
    query = urlencode(({"raw": "true"} if raw else {}) | {"token": token})
    for what, route in (("url", ready.DATA), ("index_url", ready.INDEX)):
        name = ""
        try:
            if not raw:
                state: ready.Readiness = control.get(f"{route}/{entity}/status")
                prepared &= state["ready"]
                # Browsers tell formats by names.
                name = "/" + quote(state["name"], safe="") if "name" in state else ""
        except NotFound:
            if route == ready.DATA or index:
                raise
            continue
        made[what] = f"{address}{route}/{entity}{name}?{query}"

    def tell() -> None:
        output.say(made["index_url" if index else "url"])
        if not prepared:
            output.remark(
                "synd: it is not prepared yet: `synd prepare` does it, or the first request"
            )

    output.emit({"entity": entity, "ready": prepared, **made}, as_json=as_json, human=tell)


def _listener(status: Status) -> tuple[str, str]:
    """The address and the token of the listener. Raises ConfigError when there is none."""
    from synd.config import folders
    from synd.errors import ConfigError

    told: Browsers | None = status.get("browsers")
    if told is None:
        raise ConfigError(
            "genome browsers are not served: http_listen is not set",
            hint="`synd config set http_listen 127.0.0.1:8421`, then `synd down` and `synd up`",
        )
    if told["problem"]:
        raise ConfigError(told["problem"], hint="set http_listen to an address that is free")
    path = folders().http_token
    try:
        return told["address"], path.read_text().strip()
    except OSError as error:
        raise ConfigError(
            f"the token {path} cannot be read: {error.strerror}",
            hint="the next start of the daemon makes another", path=str(path),
        ) from error  # fmt: skip


def _entity(control: Control, target: str) -> str:
    """The id of a file. Raises NotFound when the service has none for it."""
    from synd.cli.targets import resolve_target
    from synd.control import contract
    from synd.errors import NotFound

    named = resolve_target(target)
    if not named.startswith("/"):
        return named
    found: contract.PathStatus = control.get(contract.STATUS, path=named)
    if not found["entity"]:
        raise NotFound(
            f"{target} is not on the service yet", hint="`synd why` says what it waits for",
            path=named,
        )  # fmt: skip
    return found["entity"]
