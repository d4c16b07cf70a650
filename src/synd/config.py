"""Settings: read from a file, then the environment, then flags; every bad field is named.

Folders follow XDG; ``SYND_HOME=DIR`` puts everything under one folder. State (never safe to delete)
and cache (always safe to delete when the daemon is down) are apart on purpose.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import urlsplit

from synd.errors import ConfigError, SyndError, UsageError, not_written
from synd.ids import entity_id

PRODUCTION = "https://repo-prod.prod.sagebase.org"
PRODUCTION_PORTAL = "https://www.synapse.org"


@dataclass(frozen=True, slots=True)
class Folders:
    """Where synd keeps things."""

    config: Path
    state: Path
    cache: Path
    runtime: Path

    @property
    def config_file(self) -> Path:
        return self.config / "config.toml"

    @property
    def database(self) -> Path:
        return self.state / "state.db"

    @property
    def staged(self) -> Path:
        return self.state / "staged"

    @property
    def recovered(self) -> Path:
        """What local actions took away (`synd restore`)."""
        return self.state / "recovered"

    @property
    def http_token(self) -> Path:
        """What programs on the loopback listener must know. It outlives the daemon, as saved sessions do."""
        return self.state / "http-token"

    @property
    def socket(self) -> Path:
        return self.runtime / "synd.sock"


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Names are the keys of config.toml; units are in the names, or in the words beside."""

    endpoint: str = field(
        default="",
        metadata={
            "doc": "Base URL of the service; empty: production, or [endpoints] of ~/.synapseConfig"
        },
    )
    mount: str = field(default="/mnt/synapse", metadata={"doc": "Where the tree is mounted"})
    projects: tuple[str, ...] = field(
        default=(), metadata={"doc": "Project ids at the top of the mount; empty: all you may see"}
    )
    transport: str = field(default="kernel", metadata={"doc": "kernel or libfuse"})
    allow_other: bool = field(
        default=False, metadata={"doc": "Let other users of this machine see the mount"}
    )
    passthrough: bool = field(
        default=True,
        metadata={"doc": "Open complete files with kernel passthrough where the kernel allows it"},
    )

    cache_max_bytes: int = field(
        default=0,
        metadata={
            "doc": "Upper bound of the cache; 0: all but what cache_keep_free_bytes reserves"
        },
    )
    cache_max_age_s: int = field(
        default=0, metadata={"doc": "Evict objects not used for so long; 0: never by age"}
    )
    cache_keep_free_bytes: int = field(
        default=2 << 30, metadata={"doc": "Disk space the cache leaves free"}
    )
    adopt_synapse_cache: bool = field(
        default=True,
        metadata={
            "doc": "Take verified files from ~/.synapseCache instead of downloading, and enter there what is prefetched, and what is read where a copy takes no room"
        },
    )
    verify_hold_s: float = field(
        default=0.25,
        metadata={"doc": "The last read of a cold file waits so long for its md5 check"},
    )

    freshness_s: float = field(
        default=30.0,
        metadata={"doc": "How old a visited folder may be before the service is asked again"},
    )
    idle_poll_s: float = field(
        default=300.0, metadata={"doc": "The same, for folders that nobody has visited for a while"}
    )
    poll_per_minute: int = field(default=100, metadata={"doc": "Upper bound of polling requests"})
    views: str = field(
        default="use",
        metadata={
            "doc": "Sizes in bulk from entity views: off, use (existing ones), create (keep a private one per project)"
        },
    )
    size_wait_s: float = field(
        default=2.0, metadata={"doc": "How long stat waits for a size that is still being fetched"}
    )

    read_only: bool = field(
        default=False, metadata={"doc": "Mount read-only: nothing can be changed through the mount"}
    )
    uploads: bool = field(
        default=True,
        metadata={
            "doc": "Send local changes; false: keep them here until `synd resume` or `synd upload-now`"
        },
    )
    conflicts: str = field(
        default="keep.both",
        metadata={
            "doc": "When both sides changed: keep.both (a conflict copy), keep.local (ours becomes the newest version), overwrite.local (theirs; ours goes to the recovery area)"
        },
    )
    record_set_export: str = field(
        default="valid",
        metadata={
            "doc": "A saved record set becomes a version: valid (once all its rows are, or no schema is bound), or always"
        },
    )
    validation_wait_s: float = field(
        default=300.0,
        metadata={
            "doc": "So long a saved record set waits for the service to validate its rows, before it is tried again"
        },
    )
    versions: str = field(
        default="merged",
        metadata={
            "doc": "merged: saves made before they could be sent become one version; every: each save is one"
        },
    )
    upload_delay_s: float = field(
        default=2.0,
        metadata={"doc": "A changed file is sent so long after its last close, as more may follow"},
    )
    delete_delay_s: float = field(
        default=5.0, metadata={"doc": "A delete is sent so long after it was made"}
    )
    quiet_s: float = field(
        default=30.0,
        metadata={
            "doc": "A file that stays open for writing is sent after so long without a change"
        },
    )
    uploads_at_once: int = field(default=32, metadata={"doc": "Changes that are sent at once"})
    delete_hold_count: int = field(
        default=100,
        metadata={
            "doc": "More deletes than this within delete_hold_window_s wait for `synd approve`; 0: no such bound"
        },
    )
    delete_hold_percent: int = field(
        default=50,
        metadata={
            "doc": "Deletes of more than this part of a project within delete_hold_window_s wait for `synd approve`; 100: no such bound"
        },
    )
    delete_hold_window_s: float = field(
        default=60.0, metadata={"doc": "The window of the two bounds above"}
    )
    recovery_max_bytes: int = field(
        default=5 << 30,
        metadata={
            "doc": "Upper bound of the recovery area on disk; the oldest go first, the newest stays; 0: no bound"
        },
    )
    recovery_max_age_s: int = field(
        default=30 * 86400,
        metadata={"doc": "What local actions took away is kept so long; 0: for ever"},
    )
    local_only: tuple[str, ...] = field(
        default=(),
        metadata={
            "doc": "Names that are never sent, such as `*.tmp`; `!keep.tmp` takes one out again. Names only, no paths"
        },
    )
    lazy_from_bytes: int = field(
        default=64 << 20,
        metadata={
            "doc": "Files from this size on that are not in the cache are opened for writing at once, their bytes fetched as needed"
        },
    )

    request_concurrency: int = field(default=3, metadata={"doc": "Requests to the service at once"})
    requests_per_minute: int = field(
        default=600, metadata={"doc": "Requests to the service per minute; 0: no bound"}
    )
    transfer_connections: int = field(
        default=64, metadata={"doc": "Connections to object storage at once"}
    )
    window_max_bytes: int = field(
        default=192 << 20, metadata={"doc": "Furthest read-ahead of one sequential reader"}
    )
    read_timeout_s: float = field(
        default=60.0, metadata={"doc": "Longest wait of one read, stat or listing for the service"}
    )
    connect_timeout_s: float = field(
        default=10.0, metadata={"doc": "Longest wait for a connection"}
    )

    jobs: int = field(
        default=0,
        metadata={
            "doc": "Preprocessing jobs at once; 0: half as many as there are processors, at least 1"
        },
    )
    lease: float = field(
        default=60.0,
        metadata={
            "doc": "Seconds after which a job whose daemon is not heard of may be taken by another"
        },
    )
    stall: float = field(
        default=900.0,
        metadata={"doc": "Seconds that a preprocessing job may show no sign of life"},
    )
    job_timeout: float = field(
        default=14400.0, metadata={"doc": "Seconds that one attempt at preprocessing may take"}
    )
    job_attempts: int = field(
        default=3, metadata={"doc": "Attempts at a job that fails for a reason that may pass"}
    )
    queue_max: int = field(
        default=1000, metadata={"doc": "Preprocessing jobs that may wait; more are refused"}
    )
    negative_ttl: float = field(
        default=86400.0,
        metadata={
            "doc": "Seconds that content which cannot be processed is remembered as such; `synd retry` asks again"
        },
    )
    drain: float = field(
        default=30.0,
        metadata={
            "doc": "Seconds that preprocessing jobs may still run when the daemon stops; then its next start does them again"
        },
    )
    sort_memory: str = field(
        default="128M", metadata={"doc": "Memory of one sort of text: a number with K, M or G"}
    )
    samtools_memory: str = field(
        default="128M",
        metadata={"doc": "Memory of one sort of alignments, per thread; at least 1M"},
    )
    tool_threads: int = field(
        default=0,
        metadata={"doc": "Threads of one tool; 0: 2 when one job runs at once, else 1"},
    )
    bgzf_level: int = field(default=1, metadata={"doc": "Compression of what is made, 1 to 9"})
    gtf: str = field(
        default="native",
        metadata={"doc": "GTF: native (as it is), or gff3 (by gffread, which loses lines)"},
    )
    tools: str = field(
        default="auto",
        metadata={
            "doc": "Programs for preprocessing: auto (those on PATH, else built-in ones), native (fail when absent), builtin"
        },
    )
    verify: str = field(
        default="fast",
        metadata={"doc": "Check of what was made: fast, or full (counts the source again)"},
    )
    engine: str = field(
        default="local",
        metadata={
            "doc": "Where preprocessing runs: local, dask, or off (files are served as they are)"
        },
    )
    dask_scheduler: str = field(
        default="",
        metadata={"doc": "With engine = dask: address of the Dask scheduler, tcp://HOST:8786"},
    )
    artifact_store: str = field(
        default="",
        metadata={
            "doc": "With engine = dask: what the workers hand over by, a folder that all machines mount or a URL for fsspec such as s3://bucket/synd"
        },
    )
    dask_wait: float = field(
        default=60.0,
        metadata={
            "doc": "With engine = dask: seconds that an attempt may wait for a worker; more where workers are started by need"
        },
    )

    http_listen: str = field(
        default="",
        metadata={
            "doc": "Loopback address that genome browsers read prepared files from, with a token (`synd url`): 127.0.0.1:8421, or port 0 for any free one; empty: off"
        },
    )
    http_origins: tuple[str, ...] = field(
        default=("*",),
        metadata={
            "doc": "Web pages that may ask there, such as https://igv.org; `*`: any that knows the token"
        },
    )
    log_level: str = field(default="INFO", metadata={"doc": "DEBUG, INFO, WARNING or ERROR"})


CHOICES: Mapping[str, tuple[str, ...]] = {
    "transport": ("kernel", "libfuse"),
    "views": ("off", "use", "create"),
    "conflicts": ("keep.both", "keep.local", "overwrite.local"),
    "record_set_export": ("valid", "always"),
    "versions": ("merged", "every"),
    "gtf": ("native", "gff3"),
    "tools": ("auto", "native", "builtin"),
    "verify": ("fast", "full"),
    "engine": ("local", "dask", "off"),
    "log_level": ("DEBUG", "INFO", "WARNING", "ERROR"),
}

BOUNDS: Mapping[str, tuple[float, float]] = {
    "poll_per_minute": (1, 1_000_000),
    "read_timeout_s": (0.1, 86400),
    "connect_timeout_s": (0.1, 86400),
    "uploads_at_once": (1, 256),
    "delete_hold_percent": (1, 100),
    "jobs": (0, 1024),
    "lease": (1, 86400),
    "dask_wait": (1, 30 * 86400),
    "stall": (1, 30 * 86400),
    "job_timeout": (1, 30 * 86400),
    "job_attempts": (1, 100),
    "queue_max": (1, 1_000_000),
    "tool_threads": (0, 256),
    "bgzf_level": (1, 9),
    "sort_memory": (1, 1 << 40),
    "samtools_memory": (1 << 20, 1 << 40),
}
"""Least and most of numbers that would be senseless beyond; of sizes in bytes."""

SIZES = frozenset({"sort_memory", "samtools_memory"})
"""Settings that are spelled as `size_bytes` reads them."""

_SIZE = re.compile(r"([1-9][0-9]*)([KMG]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


_LISTEN = re.compile(r"(127(?:\.[0-9]{1,3}){3}|localhost|\[::1\]):([0-9]{1,5})")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@,]+")


def loopback(text: str) -> tuple[str, int] | None:
    """Address and port of `http_listen`; None: off. Raises ValueError for anything but this machine's loopback."""
    if not text:
        return None
    found = _LISTEN.fullmatch(text.lower())
    if found is None or int(found[2]) > 65535 or any(int(n) > 255 for n in found[1].split(".")[1:]):
        raise ValueError(f"{text!r} is no loopback address with a port")
    return {"localhost": "127.0.0.1", "[::1]": "::1"}.get(found[1], found[1]), int(found[2])


def size_bytes(text: str) -> int:
    """Bytes of a size such as 128M. Raises ValueError."""
    found = _SIZE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is not a size such as 128M")
    return int(found[1]) * _UNITS[found[2]]


def _spelled(size: int) -> str:
    """A size as `size_bytes` reads it, in the largest unit that fits."""
    unit = max((u for u in _UNITS if size % _UNITS[u] == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[unit]}{unit}"


def name_filter(patterns: Sequence[str]) -> Callable[[str], bool]:
    """Whether a file name is one of `local_only`, as .gitignore reads its lines: the last that fits
    decides, ``!`` takes back, ``*``, ``?`` and ``[abc]`` stand for other letters.
    """
    lines = [(not p.startswith("!"), p.removeprefix("!")) for p in patterns]

    def fits(name: str) -> bool:
        return next((kept for kept, p in reversed(lines) if fnmatchcase(name, p)), False)

    return fits


def folders(environ: Mapping[str, str] | None = None) -> Folders:
    """The folders that the environment asks for. Nothing is created."""
    env = os.environ if environ is None else environ
    if home := env.get("SYND_HOME"):
        root = Path(home).expanduser().absolute()
        return Folders(root / "config", root / "state", root / "cache", root / "run")
    user = Path(env.get("HOME") or Path.home())

    def xdg(name: str, default: Path) -> Path:
        return Path(env[name]) if env.get(name) else default

    runtime = xdg("XDG_RUNTIME_DIR", Path(f"/run/user/{os.getuid()}"))
    if not runtime.is_dir():
        runtime = xdg("XDG_STATE_HOME", user / ".local/state") / "synd" / "run"
    else:
        runtime = runtime / "synd"
    return Folders(
        config=xdg("XDG_CONFIG_HOME", user / ".config") / "synd",
        state=xdg("XDG_STATE_HOME", user / ".local/state") / "synd",
        cache=xdg("XDG_CACHE_HOME", user / ".cache") / "synd",
        runtime=runtime,
    )


_WANTED = {
    bool: "true or false",
    int: "a whole number from 0 on",
    float: "a number from 0 on",
    str: "a text",
    tuple[str, ...]: "a list of texts",
}


def _typed(name: str, value: object, source: str) -> object:
    kind = get_type_hints(Config)[name]
    try:
        if kind is bool:
            if isinstance(value, bool):
                return value
            return {
                "1": True,
                "true": True,
                "yes": True,
                "on": True,
                "0": False,
                "false": False,
                "no": False,
                "off": False,
            }[str(value).lower()]
        if kind is int:
            if isinstance(value, bool):
                raise ValueError
            number = int(str(value))
            if number < 0:
                raise ValueError
            _check_bounds(name, number, source)
            return number
        if kind is float:
            number_s = float(str(value))
            if not 0 <= number_s < float("inf"):
                raise ValueError
            _check_bounds(name, number_s, source)
            return number_s
        if kind is str:
            if not isinstance(value, str):
                raise ValueError
            if name in SIZES:
                _check_bounds(name, size_bytes(value), source, shown=value)
            if name == "http_listen":
                _check_listen(value, source)
            if name == "endpoint" and value:
                base_url(value, f"{source}: endpoint")
            allowed = CHOICES.get(name)
            spelled = value.upper() if name == "log_level" else value
            if allowed and spelled not in allowed:
                raise ConfigError(
                    f"{source}: {name} = {value!r} is not one of {', '.join(allowed)}",
                )
            return spelled
        if isinstance(value, str):
            value = [part.strip() for part in value.split(",") if part.strip()]
        if not isinstance(value, list | tuple) or not all(isinstance(v, str) for v in value):
            raise ValueError
        if name == "local_only":
            _check_patterns(value, source)
        if name == "http_origins":
            _check_origins(value, source)
        if name == "projects" and not source.startswith("--"):  # a flag is usage, and checked there
            _check_projects(value, source)
        return tuple(value)
    except (ValueError, KeyError) as error:
        wanted = "a size such as 128M: a whole number with K, M or G, or of bytes"
        if name not in SIZES:
            wanted = _WANTED[kind]
        raise ConfigError(f"{source}: {name} = {value!r} is not {wanted}") from error


def _check_bounds(name: str, number: float, source: str, *, shown: str = "") -> None:
    least, most = BOUNDS.get(name, (0, number))
    if not least <= number <= most:
        told = f"{least:.12g} and {most:.12g}"
        if shown:
            told = f"{_spelled(int(least))} and {_spelled(int(most))}"
        raise ConfigError(f"{source}: {name} = {shown or number} is not between {told}")


def _check_patterns(patterns: Sequence[str], source: str) -> None:
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if not bare or "/" in bare or "@" in bare:
            raise ConfigError(
                f"{source}: local_only = {pattern!r} is not a pattern of file names",
                hint="names only, such as *.tmp or .Rhistory: no folders, no @",
            )


def base_url(text: str, what: str) -> str:
    """The base URL of a service. Raises ConfigError, which begins with `what`."""
    try:
        parts = urlsplit(text.strip())
        valid = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        valid = False
    if not valid or parts.username is not None or parts.query or parts.fragment:
        raise ConfigError(
            f"{what}: {text!r} is not the base URL of a service",
            hint="write it like https://HOST or http://127.0.0.1:PORT",
        )
    return text.strip()


def _check_projects(values: Sequence[str], source: str) -> None:
    for value in values:
        try:
            entity_id(value)
        except UsageError as error:
            raise ConfigError(
                f"{source}: projects: {error.message}", hint="a project's id, like syn123"
            ) from error


def _check_listen(value: str, source: str) -> None:
    try:
        loopback(value)
    except ValueError as error:
        raise ConfigError(
            f"{source}: http_listen = {value!r} is no loopback address with a port",
            hint="127.0.0.1:8421, or [::1]:0 for any free port; other machines are not served",
        ) from error


def _check_origins(values: Sequence[str], source: str) -> None:
    for value in values:
        if _ORIGIN.fullmatch(value.lower()) is None:
            raise ConfigError(
                f"{source}: http_origins = {value!r} is no origin of web pages",
                hint="scheme and host, such as https://igv.org; or * for any",
            )


def load(
    environ: Mapping[str, str] | None = None, flags: Mapping[str, object] | None = None
) -> Config:
    """The settings in force: file, then ``SYND_<NAME>`` variables, then `flags` (None is "not given").

    Raises ConfigError naming the file, the field and what it should be.
    """
    env = os.environ if environ is None else environ
    values: dict[str, object] = {}
    known = {f.name for f in dataclasses.fields(Config)}
    path = folders(env).config_file
    for name, value in _read_file(path).items():
        if name not in known:
            raise ConfigError(
                f"{path}: there is no setting {name!r}", hint="`synd config list` shows all"
            )
        values[name] = _typed(name, value, str(path))
    for name in known:
        if (text := env.get(f"SYND_{name.upper()}")) is not None:
            values[name] = _typed(name, text, f"SYND_{name.upper()}")
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _typed(name, value, f"--{name.replace('_', '-')}")
    return Config(**values)  # type: ignore[arg-type]


def _read_file(path: Path) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def save(changes: Mapping[str, object | None], environ: Mapping[str, str] | None = None) -> Path:
    """Writes settings into the file (None removes one), keeping the others. Raises ConfigError."""
    path = folders(environ).config_file
    values = _read_file(path)
    for name, value in changes.items():
        if name not in {f.name for f in dataclasses.fields(Config)}:
            raise ConfigError(f"there is no setting {name!r}", hint="`synd config list` shows all")
        if value is None:
            values.pop(name, None)
        else:
            values[name] = _typed(name, value, "not written")
    text = _edited(_text(path), {n: values.get(n) for n in changes}, values)
    aside = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink()
        raise unwritable(path, error) from error
    return path


def unwritable(path: Path, error: OSError) -> SyndError:
    """The error of a file of settings that could not be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return not_written(path, error)
    return ConfigError(f"cannot write {path}: {error.strerror}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error


def _edited(text: str, changes: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """`text` with some settings changed and all else, comments too, as it was.

    Where that cannot be done line by line (a value over several lines), the whole is written anew.
    """
    lines = text.splitlines()
    for name, value in changes.items():
        at = [i for i, line in enumerate(lines) if re.match(rf"{name}\s*=", line)]
        for i in reversed(at):
            del lines[i]
        if value is not None:
            lines.insert(at[0] if at else len(lines), f"{name} = {_toml(value)}")
    made = "".join(f"{line}\n" for line in lines)
    try:
        if tomllib.loads(made) == {n: _plain(v) for n, v in wanted.items()}:
            return made
    except tomllib.TOMLDecodeError:
        pass
    return "".join(f"{name} = {_toml(value)}\n" for name, value in sorted(wanted.items()))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_toml(v) for v in value) + "]"
    # JSON's text is TOML's, but for DEL, which TOML wants escaped.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
