"""Who is asking, and whom: the token's sources, and the service's four base URLs.

Sources of the token, first found wins: ``SYNAPSE_AUTH_TOKEN``, systemd's credential, the keyring,
``~/.synapseConfig`` (the official client's file). Unlike there, the environment beats the file.

A token is a secret: it lives in a `Token`, whose repr hides it, and leaves it by `reveal` only, in
`synd.client.transport`. Nothing here opens a connection.
"""

from __future__ import annotations

import base64
import binascii
import configparser
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from synd.config import PRODUCTION, PRODUCTION_PORTAL, Config, base_url, unwritable
from synd.errors import ConfigError, NotLoggedIn

TOKEN_VARIABLE: Final = "SYNAPSE_AUTH_TOKEN"  # its name, not a token  # noqa: S105  # its name, not a token
PROFILE_VARIABLE: Final = "SYNAPSE_PROFILE"
SYSTEMD_NAME: Final = "synapse-token"
"""Name of the credential: ``LoadCredential=synapse-token:FILE`` in the unit."""

KEYRING_SERVICE: Final = "synd"

_PRODUCTION_AUTH = "https://auth-prod.prod.sagebase.org"
_PRODUCTION_FILE = "https://file-prod.prod.sagebase.org"
_TOKEN_SIGNS = re.compile(r"[\x21-\x7e]+")
_SECTION = re.compile(r"\s*\[(?P<name>[^]]+)]")
_AUTHTOKEN = re.compile(r"\s*authtoken\s*[:=]", re.IGNORECASE)


class Token:
    """A secret that shows itself to nobody who does not ask by name."""

    __slots__ = ("_value", "source")

    def __init__(self, value: str, source: str = "") -> None:
        text = value.strip()
        if _TOKEN_SIGNS.fullmatch(text) is None:
            raise ConfigError(
                f"the token{f' from {source}' if source else ''} is not one word of plain letters",
                hint="copy it again from your account settings, then run `synd login`",
            )
        self._value = text
        self.source = source
        """Where it was found, in words."""

    def reveal(self) -> str:
        """The secret itself. Only for the header that carries it."""
        return self._value

    def scopes(self) -> frozenset[str] | None:
        """What the token allows (view, download, modify, …); None when it does not tell."""
        parts = self._value.split(".")
        if len(parts) != 3:
            return None
        try:
            claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
            return frozenset(str(scope) for scope in claims["access"]["scope"])
        except (binascii.Error, ValueError, KeyError, TypeError):
            return None

    def __repr__(self) -> str:
        return f"Token(hidden, from {self.source or 'the caller'})"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError("a token is not written anywhere")


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The service's base URLs, without a slash at their end, save the portal's."""

    repo: str
    auth: str
    file: str
    portal: str

    @property
    def name(self) -> str:
        """What a token is kept under: the repository service's URL without its path."""
        parts = urlsplit(self.repo)
        return f"{parts.scheme}://{parts.netloc}"

    @property
    def hosts(self) -> frozenset[tuple[str, str]]:
        """(scheme, host with port) of every service that may be sent the token."""
        found = (urlsplit(url) for url in (self.repo, self.auth, self.file))
        return frozenset((parts.scheme, parts.netloc.lower()) for parts in found)

    @property
    def is_loopback(self) -> bool:
        return _is_loopback(urlsplit(self.repo).hostname or "")

    @property
    def is_production(self) -> bool:
        return self.name == PRODUCTION

    def page(self, entity: str) -> str:
        """The web page of an entity, e.g. of ``syn123``."""
        return f"{self.portal}Synapse:{entity}"


PRODUCTION_ENDPOINTS: Final = Endpoints(
    repo=f"{PRODUCTION}/repo/v1",
    auth=f"{_PRODUCTION_AUTH}/auth/v1",
    file=f"{_PRODUCTION_FILE}/file/v1",
    portal=f"{PRODUCTION_PORTAL}/",
)


def from_base(base: str) -> Endpoints:
    """The endpoints of a service that lies at one base URL. Raises ConfigError."""
    root = base_url(base, "endpoint").rstrip("/").removesuffix("/repo/v1")
    if root == PRODUCTION:
        return PRODUCTION_ENDPOINTS
    return Endpoints(f"{root}/repo/v1", f"{root}/auth/v1", f"{root}/file/v1", f"{root}/")


def endpoints(config: Config, environ: Mapping[str, str] | None = None) -> Endpoints:
    """The endpoints in force: the setting `endpoint` (``SYND_ENDPOINT`` beats the file; see
    synd.config), else ``[endpoints]`` of ~/.synapseConfig, else production. Raises ConfigError.
    """
    if config.endpoint:
        return from_base(config.endpoint)
    env = os.environ if environ is None else environ
    return _file_endpoints(_read(config_path(env)))


def config_path(environ: Mapping[str, str] | None = None) -> Path:
    """The official client's file."""
    env = os.environ if environ is None else environ
    return Path(env.get("HOME") or Path.home()) / ".synapseConfig"


def find_token(service: Endpoints, environ: Mapping[str, str] | None = None) -> Token:
    """The token for a service. Raises NotLoggedIn, naming every place that was looked at."""
    env = os.environ if environ is None else environ
    tried: list[str] = []

    if text := env.get(TOKEN_VARIABLE, "").strip():
        return Token(text, TOKEN_VARIABLE)
    tried.append(f"{TOKEN_VARIABLE} (not set)")

    folder = env.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        tried.append("systemd credential (none is passed)")
    else:
        path = Path(folder) / SYSTEMD_NAME
        if text := _read_secret(path, tried):
            return Token(text, f"systemd credential {SYSTEMD_NAME}")

    text, why = _from_keyring(service)
    if text:
        return Token(text, "the keyring")
    tried.append(f"keyring ({why})")

    path = config_path(env)
    text, why = _from_file(path, service, env)
    if text:
        return Token(text, str(path))
    tried.append(f"{path} ({why})")

    raise NotLoggedIn(
        f"not logged in to {service.name}: no token in " + ", ".join(tried),
        hint="run `synd login`",
    )


def save_token(
    token: Token,
    service: Endpoints,
    environ: Mapping[str, str] | None = None,
    *,
    keyring: bool = True,
) -> str:
    """Keeps a token where `find_token` finds it; returns that place in words.

    The keyring if there is one and it is wanted, else ~/.synapseConfig with mode 0600, whose other
    sections and comments stay. Raises ConfigError.
    """
    if keyring and (ring := _keyring()) is not None:
        try:
            ring.set_password(KEYRING_SERVICE, service.name, token.reveal())
            return "the keyring"
        except Exception:  # noqa: BLE001, S110  # keyring backends raise what they like
            pass
    env = os.environ if environ is None else environ
    path = config_path(env)
    section = _section_of(service, _file_endpoints(_read(path)), env)
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    _write_private(path, "".join(_with_token(lines, section, token.reveal())))
    return str(path)


def forget_token(service: Endpoints, environ: Mapping[str, str] | None = None) -> list[str]:
    """Removes the kept tokens of a service; the places, in words. Raises ConfigError."""
    env = os.environ if environ is None else environ
    removed: list[str] = []
    ring = _keyring()
    if ring is not None:
        try:
            if ring.get_password(KEYRING_SERVICE, service.name):
                ring.delete_password(KEYRING_SERVICE, service.name)
                removed.append("the keyring")
        except Exception:  # noqa: BLE001, S110  # keyring backends raise what they like
            pass
    path = config_path(env)
    parser = _read(path)
    section = _section_of(service, _file_endpoints(parser), env)
    for name in (section, "authentication") if section == "default" else (section,):
        if parser.has_option(name, "authtoken"):
            lines = path.read_text().splitlines(keepends=True)
            _write_private(path, "".join(_with_token(lines, name, None)))
            removed.append(f"[{name}] of {path}")
    return removed


def _keyring() -> Any | None:  # an optional package without types
    """The keyring package with a backend that can keep something; None without."""
    try:
        import keyring
        from keyring.backends import fail
    except ImportError:
        return None
    try:
        return None if isinstance(keyring.get_keyring(), fail.Keyring) else keyring
    except Exception:  # a broken backend is as good as none  # noqa: BLE001  # keyring backends raise what they like
        return None


def _from_keyring(service: Endpoints) -> tuple[str, str]:
    """(token or nothing, why not)."""
    ring = _keyring()
    if ring is None:
        return "", "there is none on this machine"
    try:
        found = ring.get_password(KEYRING_SERVICE, service.name)
    except Exception as error:  # noqa: BLE001  # keyring backends raise what they like
        return "", f"it failed: {type(error).__name__}"
    return (str(found).strip(), "") if found else ("", f"no entry for {service.name}")


def _read_secret(path: Path, tried: list[str]) -> str:
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        tried.append(f"systemd credential (no {SYSTEMD_NAME})")
        return ""
    except (OSError, UnicodeDecodeError) as error:
        tried.append(f"systemd credential (cannot be read: {type(error).__name__})")
        return ""
    if not text:
        tried.append(f"systemd credential ({SYSTEMD_NAME} is empty)")
    return text


def _from_file(path: Path, service: Endpoints, env: Mapping[str, str]) -> tuple[str, str]:
    """(token or nothing, why not), by the official client's rules for profiles."""
    if not path.exists():
        return "", "no such file"
    parser = _read(path)
    own = _file_endpoints(parser)
    section = _section_of(service, own, env)
    if found := parser.get(section, "authtoken", fallback="").strip():
        return found, ""
    if section == _named(service) and service.is_loopback:
        # A registry on this machine may be shown the token of the file; a foreign host may not.
        section = _profile(env)
        if found := parser.get(section, "authtoken", fallback="").strip():
            return found, ""
    if section == "default":
        if found := parser.get("authentication", "authtoken", fallback="").strip():
            return found, ""
        return "", "no authtoken in [default] or [authentication]"
    if section == _named(service):
        return "", f"it is for {own.name}, and has no [{section}]"
    return "", f"no authtoken in [{section}]"


def _profile(env: Mapping[str, str]) -> str:
    name = env.get(PROFILE_VARIABLE, "").strip()
    return f"profile {name}" if name and name != "default" else "default"


def _named(service: Endpoints) -> str:
    """The section for a service that the file's own endpoints do not name."""
    return f"profile {urlsplit(service.repo).netloc.lower()}"


def _section_of(service: Endpoints, own: Endpoints, env: Mapping[str, str]) -> str:
    """Where the token for `service` lies: a file's token belongs to the file's own endpoints."""
    return _profile(env) if service.name == own.name else _named(service)


def _read(path: Path) -> configparser.RawConfigParser:
    # No section is special: the official client's [default] is an ordinary one.
    parser = configparser.RawConfigParser(default_section="\0", strict=False)
    try:
        parser.read_string(path.read_text(), source=str(path))
    except FileNotFoundError:
        pass
    except configparser.Error as error:
        # The parser's own message quotes lines, and one of them may be the token.
        where = getattr(error, "lineno", None)
        raise ConfigError(
            f"{path} is not a valid configuration file" + (f" (line {where})" if where else "")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {type(error).__name__}") from error
    return parser


def _file_endpoints(parser: configparser.RawConfigParser) -> Endpoints:
    def url(key: str, default: str) -> str:
        text = parser.get("endpoints", key, fallback="").strip()
        return base_url(text, f"~/.synapseConfig: {key}").rstrip("/") if text else default

    return Endpoints(
        repo=url("repoEndpoint", PRODUCTION_ENDPOINTS.repo),
        auth=url("authEndpoint", PRODUCTION_ENDPOINTS.auth),
        file=url("fileHandleEndpoint", PRODUCTION_ENDPOINTS.file),
        portal=url("portalEndpoint", PRODUCTION_ENDPOINTS.portal).rstrip("/") + "/",
    )


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _with_token(lines: list[str], section: str, token: str | None) -> list[str]:
    """`lines` of a configuration file with one section's token set (None: removed)."""
    out: list[str] = []
    inside = False
    done = token is None
    place = 0
    """Where the section's last line of content ends in `out`."""
    for given in lines:
        line = given if given.endswith("\n") else f"{given}\n"
        match = _SECTION.match(line)
        if match is not None:
            if inside and not done:
                out.insert(place, f"authtoken = {token}\n")
                done = True
            inside = match["name"].strip() == section
        elif inside and _AUTHTOKEN.match(line):
            if not done:
                out.append(f"authtoken = {token}\n")
                place = len(out)
                done = True
            continue
        out.append(line)
        if inside and line.strip():
            place = len(out)
    if not done:
        if inside:
            out.insert(place, f"authtoken = {token}\n")
        else:
            if out and out[-1].strip():
                out.append("\n")
            out += [f"[{section}]\n", f"authtoken = {token}\n"]
    return out


def _write_private(path: Path, text: str) -> None:
    """Replaces a file in one step, readable by its owner only."""
    # A link to a file elsewhere (dotfile managers do so) stays a link.
    target = path.resolve()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        fd, aside = tempfile.mkstemp(prefix=".synapseConfig.", dir=target.parent)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(aside, target)
        except BaseException:
            os.unlink(aside)
            raise
    except OSError as error:
        raise unwritable(path, error) from error
