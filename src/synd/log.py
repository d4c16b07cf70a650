"""Logging: one set-up, field names, and no secret in any line.

A record is an event word, then fields: ``log.info("upload.done", extra=fields(entity="syn1", took_s=0.3))``.
"""

from __future__ import annotations

import logging
import re
import sys
from typing import TextIO

_SECRETS = re.compile(
    r"(?i)(bearer\s+|authorization['\"]?\s*[:=]\s*['\"]?(?:bearer\s+)?|authtoken\s*[:=]\s*|[?&]X-Amz-(?:Signature|Credential|Security-Token)="
    r"|[?&]token=)[^\s'\"&,}]+"
)
_JWT = re.compile(r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def redact(text: str) -> str:
    """`text` without tokens and signatures."""
    return _JWT.sub("[token]", _SECRETS.sub(lambda m: m[1] + "[hidden]", text))


def fields(**values: object) -> dict[str, object]:
    """The `extra` of a record: fields that are printed after its event word."""
    return {"fields": values}


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        values: dict[str, object] = getattr(record, "fields", {})
        if values:
            head, newline, rest = line.partition("\n")
            line = head + "".join(f" {k}={v}" for k, v in values.items()) + newline + rest
        return redact(line)


def set_up(level: str = "INFO", stream: TextIO | None = None, *, stamp: bool = True) -> None:
    """Sends the records of `synd` and `syndd` to `stream` (standard error), from `level` up.

    Without `stamp`, lines carry no time, as a journal adds its own.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    pattern = "%(levelname)s %(name)s %(message)s"
    handler.setFormatter(_Formatter(f"%(asctime)s {pattern}" if stamp else pattern))
    for name in ("synd", "syndd"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(level.upper())
        logger.propagate = False
