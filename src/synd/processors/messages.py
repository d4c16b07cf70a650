"""Texts of failures: fit to be shown to others than the machine's owner."""

from __future__ import annotations

import re

MESSAGE_MAX = 1024
"""Bytes of UTF-8."""

_PATH = re.compile(r"""(?<![\w.:/])/(?:[^\s/:;,'"<>()]+/)*([^\s/:;,'"<>()]*)""")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def shown(data: bytes, limit: int = 80) -> str:
    """At most `limit` bytes of a line, as text; what is no printable ASCII is escaped."""
    text = data[:limit].decode("ascii", "backslashreplace")
    return escaped(text) + ("…" if len(data) > limit else "")


def escaped(text: str) -> str:
    """`text` with its control characters spelled out."""
    return _CONTROL.sub(lambda m: _spelled(m[0]), text)


def fit(text: str, *, hide: tuple[str, ...] = ()) -> str:
    """`text` without absolute paths and control characters, cut to what may be stored and sent.

    `hide`: folders and files that are known by name, as a path may hold blanks.
    """
    for path in sorted(filter(None, hide), key=len, reverse=True):
        text = text.replace(path.rstrip("/") + "/", "").replace(path, path.rpartition("/")[2])
    text = _PATH.sub(lambda m: m[1] if len(m[0]) > 1 else m[0], text)
    text = escaped(text.strip().replace("\n", "; "))
    # Half of a surrogate, or of a letter that the cut went through, is nothing that JSON could carry.
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > MESSAGE_MAX:
        data = data[: MESSAGE_MAX - 3].decode("utf-8", "ignore").encode() + "…".encode()
    return data.decode()


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
