"""`synd completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

from typing import Annotated

import typer

from synd.cli import output
from synd.cli.output import Json

SHELLS = ("bash", "zsh", "fish")


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Set up")(completion)


def completion(
    shell: Annotated[str, typer.Argument(metavar="bash|zsh|fish", help="Your shell.")],
    as_json: Json = False,
) -> None:
    """Print a completion script: `source <(synd completion bash)`."""
    from typer._completion_shared import get_completion_script

    from synd.errors import UsageError

    if shell not in SHELLS:
        raise UsageError(f"no completion for {shell!r}", hint=f"one of {', '.join(SHELLS)}")
    script = get_completion_script(prog_name="synd", complete_var="_SYND_COMPLETE", shell=shell)
    output.emit(
        {"shell": shell, "script": script}, as_json=as_json, human=lambda: output.say(script)
    )
