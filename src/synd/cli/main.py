"""The program `synd`: puts the commands together, and turns every exception into text and exit code, once.

Each command is one file beside this one; heavy imports wait inside its functions, so that the program
starts at once. Exit codes follow sysexits.h (`docs/errors.md`); bad usage is 64.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer._completion_classes import completion_init

from synd.cli import output
from synd.errors import CacheFull, Cancelled, ConfigError, NameTooLong, SyndError, UsageError

EX_PIPE = 141
"""Our reader went away (128 + SIGPIPE), as in `synd ls | head -1`."""

COMMANDS = {
    "up": ("up",),
    "down": ("down", "restart"),
    "status": ("status",),
    "ls": ("ls",),
    "info": ("info",),
    "why": ("why",),
    "events": ("events",),
    "wait": ("wait",),
    "diff": ("diff",),
    "undo": ("discard", "restore"),
    "sending": ("upload-now", "pause", "resume", "approve"),
    "notes": ("comment", "annotate"),
    "conflicts": ("conflicts",),
    "track": ("track", "untrack", "tracked"),
    "prefetch": ("prefetch",),
    "prepare": ("prepare", "formats"),
    "url": ("url",),
    "cache": ("cache",),
    "jobs": ("jobs", "job", "cancel", "retry", "logs"),
    "login": ("login", "logout", "whoami"),
    "config": ("config",),
    "grid": ("grid",),
    "curate": ("curate",),
    "registry": ("registry",),
    "demo": ("demo",),
    "doctor": ("doctor",),
    "completion": ("completion",),
}
"""Module beside this one → its commands; the help page shows them in this order, groups last."""


def _version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        output.say(f"synd {importlib.metadata.version('synd')}")
        raise typer.Exit


def _top(
    version: Annotated[
        bool,
        typer.Option("--version", "-V", callback=_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Synapse (synapse.org) as a folder."""


def program(command: str | None = None) -> typer.Typer:
    """All commands; of a known `command` only the module it is in, for importing all takes a third of a start."""
    app = typer.Typer(
        name="synd",
        help="Synapse as a folder.",
        no_args_is_help=True,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Exit codes follow sysexits.h: 0 done, 64 usage, 65 data, 66 not found, 69 not running or not "
        "reachable, 75 try again later, 77 not allowed, 78 configuration.",
    )
    app.callback()(_top)
    owner = [module for module, commands in COMMANDS.items() if command in commands]
    for module in owner or COMMANDS:
        import_module(f"synd.cli.{module}").register(app)
    return app


_CLICK_ERROR: type[Exception] = next(
    c
    for c in typer.BadParameter.__mro__
    if c.__name__ == "ClickException" and issubclass(c, Exception)
)
"""The base of the parser's errors. Typer does not export it, and moved it between its versions."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits with its code."""
    sys.exit(run(list(sys.argv[1:] if argv is None else argv)))


def run(argv: list[str]) -> int:
    """Runs one command; its exit code. Everything it has to say is printed."""
    as_json = "--json" in argv[: argv.index("--") if "--" in argv else None]
    _open_standard_streams()
    try:
        completing = "_SYND_COMPLETE" in os.environ
        if completing:
            # What `add_completion` would do, without its two options on every help page.
            completion_init()
        app = program(argv[0] if argv and not completing else None)
        code = typer.main.get_command(app).main(argv, prog_name="synd", standalone_mode=False)
        output.flush()
    except SyndError as error:
        return output.fail(error, as_json=as_json)
    except _CLICK_ERROR as error:
        return output.fail(_usage(error), as_json=as_json)
    except (KeyboardInterrupt, typer.Abort):
        return output.fail(Cancelled("interrupted"), as_json=as_json)
    except output.UnsaidError as unsaid:
        output.end_output()
        return output.fail(unsaid.error, as_json=False)
    except (BrokenPipeError, SystemExit) as error:
        # The parser makes a 1 of a broken pipe.
        if isinstance(error, SystemExit) and not isinstance(error.__context__, BrokenPipeError):
            raise
        output.end_output()
        return EX_PIPE
    except OSError as error:
        return output.fail(_system(error), as_json=as_json)
    except Exception as error:  # the process's edge  # noqa: BLE001  # the process's edge
        return _bug(error, as_json=as_json)
    return int(code) if isinstance(code, int) else 0


def _open_standard_streams() -> None:
    """What the caller closed (`>&-`) goes nowhere, and not into the next file that is opened."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            null = os.open(os.devnull, os.O_RDWR)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))


def _usage(error: Any) -> UsageError:
    """The parser's complaint as ours. With no arguments at all it has printed the help text, and says nothing."""
    context = getattr(error, "ctx", None)
    where = context.command_path if context is not None else "synd"
    message: str = error.format_message() or "a command is missing"
    return UsageError(message, hint=f"`{where} --help` shows what is possible")


def _system(error: OSError) -> SyndError:
    """A file of ours that cannot be used. Commands that expect this say more."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    if error.filename is None:
        return (CacheFull if full else SyndError)(f"{error.strerror or error}")
    kind = {errno.ENAMETOOLONG: NameTooLong}.get(
        error.errno or 0, CacheFull if full else ConfigError
    )
    return kind(f"{os.fsdecode(error.filename)}: {error.strerror}", path=str(error.filename))


def _bug(error: Exception, *, as_json: bool) -> int:
    """What nobody expected: short text, and the traceback in a file that can be sent on."""
    import tempfile
    import traceback

    from synd.log import redact

    text = redact("".join(traceback.format_exception(error)))
    hint = text
    with contextlib.suppress(OSError):
        with tempfile.NamedTemporaryFile(
            "w", prefix="synd-", suffix=".traceback", delete=False
        ) as file:
            file.write(text)
        hint = f"this is a fault of synd; please report it with {file.name}"
    return output.fail(
        SyndError(f"{type(error).__name__}: {redact(str(error))}", hint=hint), as_json=as_json
    )


if __name__ == "__main__":
    main()
