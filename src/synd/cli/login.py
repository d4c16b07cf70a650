"""`synd login`, `logout`, `whoami`: the access token, kept where the client looks for it."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from synd.cli import output
from synd.cli.output import Json


def register(app: typer.Typer) -> None:
    for command in (login, logout, whoami):
        app.command(rich_help_panel="Set up")(command)


def login(
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            metavar="TOKEN|-",
            help="A personal access token; `-` reads it from standard input. Not given: asked for. "
            "Other users of this machine can see arguments: prefer `-`.",
        ),
    ] = None,
    keyring: Annotated[
        bool, typer.Option("--keyring/--no-keyring", help="Keep it in the keyring if there is one.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check a personal access token with the service and keep it."""
    from synd.client.credentials import Token, endpoints, save_token
    from synd.config import load
    from synd.errors import UsageError

    config = load()
    service = endpoints(config)
    text = token
    if text is None and sys.stdin.isatty():
        output.remark(f"make a token on the page {service.portal}PersonalAccessTokens:0")
        output.remark("with the permissions view, download and modify")
        text = typer.prompt("token", hide_input=True, err=True)
    elif text in (None, "-"):
        text = sys.stdin.readline()
    if not (text or "").strip():
        raise UsageError(
            "no token was given", hint="`synd login` asks, `synd login --token -` reads it"
        )
    secret = Token((text or "").strip(), "the caller")
    who = _ask_who(secret)
    place = save_token(secret, service, keyring=keyring)
    told = {"user": who["name"], "id": who["id"], "endpoint": service.name, "kept_in": place}
    output.emit(
        told,
        as_json=as_json,
        human=lambda: output.say(
            f"logged in to {service.name} as {who['name']}; token kept in {place}"
        ),
    )


def logout(as_json: Json = False) -> None:
    """Forget the kept token. A variable in the environment stays, as it is not ours."""
    from synd.client.credentials import endpoints, forget_token
    from synd.config import load

    service = endpoints(load())
    places = forget_token(service)
    output.emit(
        {"endpoint": service.name, "removed_from": places},
        as_json=as_json,
        human=lambda: output.say(
            f"removed the token for {service.name} from {' and '.join(places)}"
            if places
            else f"no token for {service.name} was kept"
        ),
    )


def whoami(as_json: Json = False) -> None:
    """Ask the service who you are."""
    from synd.client.credentials import endpoints, find_token
    from synd.config import load

    service = endpoints(load())
    token = find_token(service)
    who = _ask_who(token)
    told = {
        "user": who["name"],
        "id": who["id"],
        "endpoint": service.name,
        "token_from": token.source,
    }
    output.emit(
        told,
        as_json=as_json,
        human=lambda: output.say(
            f"{who['name']} ({who['id']}) at {service.name}, token from {token.source}"
        ),
    )


def _ask_who(token: Any) -> dict[str, str]:
    """Name and id of the token's owner. Raises NotLoggedIn, Offline."""
    import asyncio

    from synd.client.credentials import endpoints
    from synd.client.service import SynapseClient
    from synd.clock import Deadline
    from synd.config import load

    async def ask() -> dict[str, str]:
        config = load()
        async with SynapseClient(endpoints(config), token, config=config) as client:
            profile = await client.whoami(deadline=Deadline.after(30.0, "asking the service"))
            return {"id": profile.id, "name": profile.name}

    return asyncio.run(ask())
