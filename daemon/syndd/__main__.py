"""``syndd serve`` and ``syndd hold``: flags, logging, exit code.

`serve` is the daemon. `hold` is the small parent that keeps the mount's descriptor and starts `serve`
again when it dies; it takes the same flags and hands them on. People use `synd up`, or the units.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence

from synd import config as settings
from synd import log as logs
from synd.errors import ConfigError, SyndError, UsageError

LAST_RESORT_S = 10.0
"""A thread that still blocks so long after the end of everything else is left behind."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]  # raises instead of exiting 2
        raise UsageError(message, hint=self.format_usage().strip())


def parser() -> argparse.ArgumentParser:
    """The flags of both commands."""
    top = _Parser(prog="syndd", description="The daemon of synd. Use `synd up` to start it.")
    commands = top.add_subparsers(dest="command", required=True)
    for name, about in (
        ("serve", "run the daemon in the foreground"),
        ("hold", "keep the mount's descriptor, and run the daemon below"),
    ):
        command = commands.add_parser(name, help=about, description=about)
        command.add_argument("--mount", metavar="PATH")
        command.add_argument("--project", metavar="ID", action="append", dest="projects")
        command.add_argument("--transport", choices=settings.CHOICES["transport"])
        command.add_argument("--allow-other", action="store_true", default=None)
        command.add_argument("--log-level")
    return top


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code of sysexits.h."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logs.set_up(os.environ.get("SYND_LOG_LEVEL", "INFO"), stamp="JOURNAL_STREAM" not in os.environ)
    try:
        chosen = vars(parser().parse_args(arguments))
        command = chosen.pop("command")
        folders = settings.folders()
        try:
            config = settings.load(flags=chosen)
        except ConfigError as error:
            _report(folders, error)
            raise
        logs.set_up(config.log_level, stamp="JOURNAL_STREAM" not in os.environ)
        if command == "hold":
            return _hold(folders, arguments[1:])
        return _serve(config, folders)
    except SyndError as error:
        hint = f" ({error.hint})" if error.hint else ""
        # Without the traceback: the message and the hint are made for whoever reads this.
        logging.getLogger("syndd").error("syndd.failed error=%s%s", error, hint)  # noqa: TRY400
        return error.exit_code


def _report(folders: settings.Folders, error: SyndError) -> None:
    from syndd.instance import report_startup

    report_startup(folders, "failed", error)


def _hold(folders: settings.Folders, flags: Sequence[str]) -> int:
    # Not at the top: the holder stays small only if it imports nothing of the daemon.
    from syndd.instance import make_folders
    from syndd.mount import holder

    try:
        make_folders(folders)
    except ConfigError as error:
        _report(folders, error)
        raise
    return int(holder.main(folders, [sys.executable, "-P", "-m", "syndd", "serve", *flags]))


def _serve(config: settings.Config, folders: settings.Folders) -> int:
    import asyncio

    from syndd import app, instance, lifecycle
    from syndd.notify import Notifier

    async def live() -> int:
        try:
            return await lifecycle.Daemon(config, folders, app.build, Notifier()).run()
        finally:
            # Here, not after the loop: closing the loop waits for its worker threads.
            _arm_last_resort()

    try:
        code = asyncio.run(live())
    except ConfigError as error:
        # Raised before the lifecycle could report it: folders that cannot be used.
        instance.report_startup(folders, "failed", error)
        raise
    except Exception as error:
        if isinstance(error, SyndError):
            raise
        logging.getLogger("syndd").exception("syndd.bug")
        raise SyndError(f"the daemon failed: {error!r}") from error
    return code


def _arm_last_resort() -> None:
    """Ends the process when a thread keeps the interpreter from ending by itself."""

    def end() -> None:
        logging.getLogger("syndd").error("syndd.left_thread_behind")
        os._exit(os.EX_SOFTWARE)

    timer = threading.Timer(LAST_RESORT_S, end)
    timer.daemon = True
    timer.start()


if __name__ == "__main__":
    sys.exit(main())
