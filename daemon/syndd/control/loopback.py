"""The loopback address for genome browsers: its socket, and the token that programs there must know.

Other users of this machine can reach a loopback port, and so can every web page that somebody looks at:
hence the token, which only the owner can read. What is answered there is `syndd.control.browsers`.
Imports nothing of the web framework, as the daemon binds before its mount answers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import secrets
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from synd import config as settings
from synd.config import Config, Folders
from synd.control import contract
from synd.log import fields

log = logging.getLogger(__name__)

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")


@dataclass(frozen=True, slots=True)
class Loopback:
    """Where genome browsers are served, or why not."""

    listener: socket.socket | None
    """It listens: who connects waits until somebody accepts. None: see `problem`."""
    host: str
    port: int
    token: str = field(repr=False)
    origins: tuple[str, ...]
    problem: str = ""

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def told(self) -> contract.Browsers:
        """What `synd status` says. Never the token."""
        return {"address": self.address if self.listener else "", "problem": self.problem}


@contextlib.contextmanager
def listening(config: Config, folders: Folders) -> Iterator[Loopback | None]:
    """The listener of `http_listen`, closed at the end; None: it is off.

    An address that cannot be had is told and done without: the mount is worth more.
    """
    wanted = settings.loopback(config.http_listen)
    if wanted is None:
        yield None
        return
    host, port = wanted
    origins = config.http_origins
    try:
        token = make_token(folders.http_token)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        why = f"{config.http_listen} cannot be listened on: {error.strerror or error}"
        log.warning("browsers.off", extra=fields(why=why))
        yield Loopback(None, host, port, "", origins, why)
        return
    try:
        yield Loopback(listener, host, listener.getsockname()[1], token, origins)
    finally:
        listener.close()


def make_token(path: Path) -> str:
    """The token that is kept there; a new one when there is none, or others could have read it.

    Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            facts = os.fstat(fd)
            kept = os.read(fd, 256).decode("ascii", "replace").strip()
        finally:
            os.close(fd)
        private = stat.S_IMODE(facts.st_mode) & 0o077 == 0 and facts.st_uid in (os.geteuid(), 0)
        if private and _TOKEN.fullmatch(kept):
            return kept
    made = secrets.token_urlsafe(32)
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    aside.unlink(missing_ok=True)
    fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, f"{made}\n".encode())
        os.fsync(fd)
    finally:
        os.close(fd)
    aside.replace(path)
    return made
