"""The one place that opens connections to the service: sends a request, returns its JSON, or raises.

Here a call gets its token (service hosts only), its turn (`synd.client.throttle`), its tries
(`synd.retry`) and its one deadline, and every foreign exception and error body becomes one of
`synd.errors`. What requests mean is left to the files beside this one; bytes from storage go through
`synd.client.transfer`.

A transport belongs to the event loop that first uses it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import ssl
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx

from synd.client.connections import proxy_of, proxy_refused
from synd.client.credentials import Endpoints, Token
from synd.client.http1 import EndedError, Http1Transport
from synd.client.remote import PRIORITY, Priority
from synd.client.throttle import Limits, Throttle
from synd.clock import SYSTEM, Clock, Deadline
from synd.config import Config
from synd.errors import (
    Busy,
    DeadlineExceeded,
    Exists,
    Forbidden,
    NotFound,
    NotLoggedIn,
    NotSupported,
    Offline,
    ProtocolError,
    QuotaExceeded,
    RateLimited,
    RemoteUnavailable,
    Stale,
    SyndError,
    UsageError,
)
from synd.log import fields, redact
from synd.retry import RetryPolicy

log = logging.getLogger(__name__)

SERVICE_LIMITS: Final = Limits(concurrent=3, per_window=600, window_s=60.0)
"""The service's own throttle, per user and machine (synapse-rest.md 1.7)."""

LOCAL_LIMITS: Final = Limits(concurrent=16, per_window=0)
"""For a local registry that sets none. More at once only queue up in its one process."""

_PROBE_EVERY_S: Final = 5.0
"""While offline, background calls try the service this often, and fail at once in between."""

_OFFLINE_CONNECT_S: Final = 2.0
"""While offline, somebody who waits gets one try with this long to connect."""

_CONNECT_TRIES: Final = 3
"""Tries in a row that find nobody before the service counts as out of reach."""

_AFTERLIFE_S: Final = 15.0
"""How long an exchange goes on after its caller left: the service counts it until it has answered."""

_RATE_RETRY: Final = RetryPolicy(tries=1_000_000, base_s=0.5, cap_s=20.0)
"""Throttled calls are tried until their deadline."""

_CONNECT_RETRY: Final = RetryPolicy(tries=_CONNECT_TRIES, base_s=0.1, cap_s=1.0)

_SCOPES = re.compile(r"scope\W*s?\)?[^:]*:\s*([a-z][a-z0-9_, ]*)", re.IGNORECASE)
_TERMS = re.compile(r"terms of use|access requirement|unmet|access restriction", re.IGNORECASE)
_IDS = re.compile(r"/(?:syn)?[0-9]+(?=[/?]|$)")


@dataclass(frozen=True, slots=True)
class Status:
    """What `synd status` shows of the service. Times are UTC ns; 0 for never."""

    endpoint: str
    online: bool
    offline_since_ns: int
    last_ok_at_ns: int
    requests_total: int
    """Requests sent, every try counted."""
    throttled_total: int
    """Answers 429."""
    failed_total: int
    """Tries without an answer, and answers 5xx."""
    running: int
    waiting: int
    limits: Limits
    by_endpoint: Mapping[str, int]
    """Requests per method and path, ids left out: ``POST /entity/{id}/bundle2``."""


@dataclass(slots=True)
class Counts:
    """The running totals behind `Status`."""

    requests: int = 0
    throttled: int = 0
    failed: int = 0
    by_endpoint: Counter[str] = field(default_factory=Counter)


class _UnreachedError(Exception):
    """Internal: no connection came about, so the service has not seen the request."""

    def __init__(self, why: str, *, tried: bool = True, silent: bool = False) -> None:
        super().__init__(why)
        self.tried = tried
        """False when another call's failure was taken for this one's."""
        self.silent = silent
        """Nobody even refused."""


class _LostError(Exception):
    """Internal: the connection broke or timed out after the request may have been seen."""

    def __init__(self, why: str, *, stale: bool = False) -> None:
        super().__init__(why)
        self.stale = stale
        """A kept connection ended just as it was used again: nobody's trouble."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: httpx.Headers
    body: bytes


class Transport:
    """Sends requests for one user to one service.

    `limits` overrides both the settings and what the service says of itself.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        token: Token | None,
        *,
        config: Config | None = None,
        clock: Clock = SYSTEM,
        policy: RetryPolicy | None = None,
        limits: Limits | None = None,
        user_agent: str = "synd/0.1.0",
    ) -> None:
        config = config or Config()
        self.endpoints = endpoints
        self._token = token
        self._clock = clock
        self._policy = policy or RetryPolicy()
        self._timeout_s = config.read_timeout_s
        self._connect_s = config.connect_timeout_s
        chosen = Limits(config.request_concurrency or 1, config.requests_per_minute)
        self._learn = limits is None and chosen == SERVICE_LIMITS and not endpoints.is_production
        """Whether the service is still to be asked for its limits."""
        self._throttle = Throttle(limits or chosen, clock)
        self._user_agent = user_agent
        self._http: httpx.AsyncBaseTransport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        """Exchanges under way, and asking for limits: held so that they live, cancelled at the end."""
        self._closed = False
        self._hosts = endpoints.hosts
        self._counts = Counts()
        self._last_ok_ns = 0
        self._offline_since_ns = 0
        self._unreached = 0
        """Tries in a row that found nobody."""
        self._missed_at = 0.0
        """Monotonic time of the last try that found nobody."""
        self._probe_at = 0.0
        """Monotonic time of the next background try while offline."""

    @property
    def status(self) -> Status:
        """How things stand. Any thread; numbers may be a moment apart."""
        counts = self._counts
        return Status(
            endpoint=self.endpoints.name,
            online=not self._offline_since_ns,
            offline_since_ns=self._offline_since_ns,
            last_ok_at_ns=self._last_ok_ns,
            requests_total=counts.requests,
            throttled_total=counts.throttled,
            failed_total=counts.failed,
            running=self._throttle.running,
            waiting=self._throttle.waiting,
            limits=self._throttle.limits,
            by_endpoint=dict(counts.by_endpoint),
        )

    @property
    def offline_since_ns(self) -> int:
        """UTC ns since when nobody answers; 0 while all is well."""
        return self._offline_since_ns

    async def aclose(self) -> None:
        """Cancels what is under way and closes all connections."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def json(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        service: str = "repo",
        query: Mapping[str, object] | None = None,
        deadline: Deadline | None = None,
        entity: str | None = None,
        replay: bool = True,
    ) -> Any:  # JSON: `synd.client.wire` gives it a shape
        """The answer's JSON (None for an empty one) of ``METHOD {service}{path}``.

        `path` starts with a slash; `service` is repo, auth or file. `entity` is named in errors.
        `replay`: the request may be sent again although the service may have seen it already.

        Raises NotLoggedIn, Forbidden, NotFound, Exists, Stale, UsageError, QuotaExceeded, Busy,
        RateLimited, RemoteUnavailable, Offline, DeadlineExceeded, ProtocolError, NotSupported.
        """
        _, answer = await self.call(
            method,
            path,
            body,
            service=service,
            query=query,
            deadline=deadline,
            entity=entity,
            replay=replay,
        )
        return answer

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        service: str = "repo",
        query: Mapping[str, object] | None = None,
        deadline: Deadline | None = None,
        entity: str | None = None,
        replay: bool = True,
    ) -> tuple[int, Any]:
        """As `json`, with the answer's status (2xx) before it."""
        url = self._url(service, path, query)
        content = None if body is None else json.dumps(body, separators=(",", ":")).encode()
        deadline = deadline or Deadline.after(
            self._timeout_s, f"{method} {path.partition('?')[0]}", self._clock
        )
        label = f"{method} {_IDS.sub('/{id}', path.partition('?')[0])}"
        priority = PRIORITY.get()
        attempt = throttled = unreached = 0
        while True:
            connect_s = self._connect_s
            if self._offline_since_ns:
                connect_s = min(connect_s, self._gate_offline(priority))
            asked_s: float | None = None
            try:
                answer = await self._turn(
                    method, url, content, label, deadline, priority, connect_s
                )
            except _UnreachedError as error:
                unreached += 1
                failure: SyndError = Offline(
                    f"cannot reach {self.endpoints.name}: {error}",
                    hint="what is cached stays readable; see `synd status`",
                    entity=entity,
                )
                cause: BaseException | None = error.__cause__
                out = not error.tried or self._note_unreached(silent=error.silent)
                wait = None if out else _CONNECT_RETRY.wait_s(failure, unreached, deadline)
            except _LostError as error:
                if error.stale and replay:
                    # Each kept connection can do so once.
                    continue
                attempt += 1
                failure = RemoteUnavailable(
                    f"{self.endpoints.name} gave no answer: {error}", entity=entity
                )
                cause = error.__cause__
                wait = self._policy.wait_s(failure, attempt, deadline) if replay else None
            else:
                self._note_answer(answer.status)
                if answer.status < 300:
                    return answer.status, self._parse(answer)
                failure = self._error(answer, method, path, entity)
                cause = None
                asked_s = _retry_after_s(answer.headers)
                if isinstance(failure, RateLimited):
                    throttled += 1
                    wait = _RATE_RETRY.wait_s(failure, throttled, deadline, asked_s=asked_s)
                    if wait is not None:
                        # All calls would meet the same answer now, so all wait.
                        self._throttle.pause(wait)
                        log.info(
                            "remote.throttled", extra=fields(call=label, wait_s=round(wait, 2))
                        )
                        continue
                elif isinstance(failure, RemoteUnavailable):
                    attempt += 1
                    wait = self._policy.wait_s(failure, attempt, deadline, asked_s=asked_s)
                else:
                    # A moved etag or a locked entity is for the caller to judge.
                    wait = None
            if wait is None:
                raise failure from cause
            log.debug(
                "remote.retry",
                extra=fields(call=label, why=type(failure).__name__, wait_s=round(wait, 2)),
            )
            await asyncio.sleep(wait)

    def _gate_offline(self, priority: Priority) -> float:
        """Seconds to connect in, while offline. Raises Offline when this call shall not try."""
        now = self._clock.monotonic()
        if priority is Priority.BACKGROUND and now < self._probe_at:
            raise Offline(
                f"{self.endpoints.name} is out of reach",
                hint="it is tried again every few seconds; see `synd status`",
            )
        self._probe_at = now + _PROBE_EVERY_S
        return _OFFLINE_CONNECT_S

    def _note_unreached(self, *, silent: bool) -> bool:
        """Counts a try that found nobody; whether the service now counts as out of reach.

        One silent try has taken its time already; refusals come at once, and a few may pass.
        """
        self._unreached += _CONNECT_TRIES if silent else 1
        if not self._offline_since_ns:
            if self._unreached < _CONNECT_TRIES:
                return False
            self._offline_since_ns = self._clock.now_ns()
            log.info("remote.offline", extra=fields(endpoint=self.endpoints.name))
        self._probe_at = self._clock.monotonic() + _PROBE_EVERY_S
        return True

    def _note_answer(self, status: int) -> None:
        self._unreached = 0
        if self._offline_since_ns:
            self._offline_since_ns = 0
            log.info("remote.online", extra=fields(endpoint=self.endpoints.name))
        if status == 429:
            self._counts.throttled += 1
        elif status >= 500:
            self._counts.failed += 1
        else:
            self._last_ok_ns = self._clock.now_ns()
            if self._learn:
                self._learn = False
                self._spawn(self._learn_limits(), "synd-limits")

    async def _learn_limits(self) -> None:
        """Asks the service for its limits: a local registry has its own, or none."""
        try:
            said = await self.json("GET", "/version")
        except SyndError as error:
            self._learn = isinstance(error, RemoteUnavailable)
            return
        if not isinstance(said, dict) or said.get("synd-registry") is not True:
            return
        found = said.get("limits")
        if found is None:
            self._throttle.limits = LOCAL_LIMITS
        elif isinstance(found, dict):
            concurrent, minute = found.get("concurrent"), found.get("perMinute")
            if isinstance(concurrent, int) and concurrent > 0:
                per_window = minute if isinstance(minute, int) and minute > 0 else 0
                self._throttle.limits = Limits(concurrent, per_window)

    async def _turn(
        self,
        method: str,
        url: str,
        content: bytes | None,
        label: str,
        deadline: Deadline,
        priority: Priority,
        connect_s: float,
    ) -> _Answer:
        """One try, when its turn comes. Raises _UnreachedError, _LostError, and for the deadline."""
        if self._closed:
            raise RemoteUnavailable("the client is closed")
        if self._loop is not asyncio.get_running_loop():
            if self._loop is not None:
                raise RuntimeError("a client belongs to the loop that first used it")
            self._loop = asyncio.get_running_loop()
        deadline.check()
        asked_at = self._clock.monotonic()
        await self._throttle.enter(priority, deadline)
        if self._offline_since_ns and self._missed_at > asked_at:
            # Another call found out while this one waited: one after the other would take minutes.
            self._throttle.leave(priority, counted=False)
            raise _UnreachedError("nobody answers", tried=False)
        self._counts.requests += 1
        self._counts.by_endpoint[label] += 1
        left = deadline.left_s()
        # The service counts a request until it has answered, whether or not its caller still waits.
        # So the exchange is a task of its own, which holds the slot to its end.
        exchange = self._spawn(
            self._exchange(method, url, content, left, min(connect_s, left), priority), label
        )
        done, _ = await asyncio.wait((exchange,), timeout=left)
        if not done:
            self._counts.failed += 1
            raise DeadlineExceeded(
                f"{self.endpoints.name} did not answer in {deadline.total_s:g} s ({deadline.what})",
                hint="see `synd status`",
            )
        if exchange.cancelled():
            raise RemoteUnavailable("the client is closed")
        answer: _Answer = exchange.result()
        return answer

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._reap)
        return task

    def _reap(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            # Whoever waits is told; where nobody does any more, this keeps the loop from complaining.
            log.debug("remote.exchange.failed", extra=fields(why=type(error).__name__))

    async def _exchange(
        self,
        method: str,
        url: str,
        content: bytes | None,
        left_s: float,
        connect_s: float,
        priority: Priority,
    ) -> _Answer:
        sent = True
        try:
            async with asyncio.timeout(left_s + _AFTERLIFE_S):
                http = self._http or self._open(url)
                whole_s = left_s + _AFTERLIFE_S
                response = await http.handle_async_request(
                    httpx.Request(
                        method,
                        url,
                        content=content,
                        headers=self._headers(url, content),
                        extensions={"timeout": {"connect": connect_s, "read": whole_s}},
                    )
                )
                await response.aread()
                await response.aclose()
                return _Answer(response.status_code, response.headers, response.content)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            sent = False
            self._counts.failed += 1
            # Before the slot goes to the next, who then need not find out for himself.
            self._missed_at = self._clock.monotonic()
            root = _root(error)
            if isinstance(root, ssl.SSLCertVerificationError):
                raise ProtocolError(
                    f"the certificate of {urlsplit(url).netloc} is not valid: {root.verify_message}",
                    hint="a proxy of your network may sit between; "
                    "SSL_CERT_FILE names further authorities",
                ) from error
            silent = isinstance(error, httpx.ConnectTimeout)
            raise _UnreachedError(_why(error, root), silent=silent) from error
        except httpx.ProxyError as error:
            sent = False
            self._counts.failed += 1
            raise _UnreachedError(f"the proxy refuses: {redact(str(error))}") from error
        except (httpx.UnsupportedProtocol, httpx.InvalidURL, httpx.LocalProtocolError) as error:
            sent = False
            raise UsageError(
                f"cannot send {method} {redact(url)}: {type(error).__name__}"
            ) from error
        except httpx.DecodingError as error:
            raise ProtocolError("an answer of the service cannot be unpacked") from error
        except (httpx.TransportError, TimeoutError) as error:
            self._counts.failed += 1
            raise _LostError(
                _why(error, _root(error)), stale=isinstance(error, EndedError)
            ) from error
        finally:
            self._throttle.leave(priority, counted=sent)

    def _open(self, url: str) -> httpx.AsyncBaseTransport:
        """What carries requests: our own transport, or httpx's through the environment's proxy."""
        parts = urlsplit(url)
        proxy = proxy_of(parts.scheme, parts.netloc.rpartition("@")[2])
        try:
            self._http = httpx.AsyncHTTPTransport(proxy=proxy) if proxy else Http1Transport()
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise proxy_refused(proxy) from error
        return self._http

    def _headers(self, url: str, content: bytes | None) -> dict[str, str]:
        headers = {
            "User-Agent": self._user_agent,
            "Accept": "application/json; charset=UTF-8",
            "Accept-Encoding": "gzip",
        }
        if content is not None:
            headers["Content-Type"] = "application/json; charset=UTF-8"
        parts = urlsplit(url)
        if self._token is not None and (parts.scheme, parts.netloc.lower()) in self._hosts:
            headers["Authorization"] = f"Bearer {self._token.reveal()}"
        return headers

    def _url(self, service: str, path: str, query: Mapping[str, object] | None) -> str:
        bases = {
            "repo": self.endpoints.repo,
            "auth": self.endpoints.auth,
            "file": self.endpoints.file,
        }
        if service not in bases or not path.startswith("/") or "//" in path.partition("?")[0]:
            raise UsageError(f"{path!r} is not a path of the {service} service")
        url = bases[service] + quote(path, safe="/?&=%:@,+;~$!*'()-._")
        if query:
            found = {k: _spelled(v) for k, v in query.items() if v is not None}
            url += ("&" if "?" in path else "?") + urlencode(found)
        return url

    def _parse(self, answer: _Answer) -> object:
        if not answer.body:
            return None
        kind = answer.headers.get("content-type", "")
        if "json" not in kind:
            if kind.startswith("text/plain"):
                return answer.body.decode(errors="replace")
            raise ProtocolError(
                f"{self.endpoints.name} answered with {kind or 'something without a type'}, not JSON",
                hint="check the endpoint; a sign-in page of your network may sit between",
            )
        try:
            return json.loads(answer.body)
        except ValueError as error:
            raise ProtocolError(f"an answer of {self.endpoints.name} is not valid JSON") from error

    def _error(self, answer: _Answer, method: str, path: str, entity: str | None) -> SyndError:
        """The error that stands for an answer other than 2xx."""
        status = answer.status
        reason, code = _reason(answer)
        if self._token is not None:
            # A service may quote what it refuses.
            reason = reason.replace(self._token.reveal(), "[token]")
        said = reason[:2000] or f"HTTP status {status}"
        if status == 401:
            return NotLoggedIn(
                f"{self.endpoints.name} does not accept the login: {said}"
                if self._token is not None
                else f"{self.endpoints.name} wants a login: {said}",
                hint="run `synd login`"
                + (f" (the token came from {self._token.source})" if self._token else ""),
                entity=entity,
            )
        if code == "PROJECT_STORAGE_LIMIT_EXCEEDED":
            return QuotaExceeded(said, entity=entity)
        if status == 403:
            return self._forbidden(said, code, entity)
        if status in (500, 502, 503, 504) and "is not a table or view" in said:
            return UsageError(said, entity=entity)
        make: Callable[..., SyndError]
        if status >= 500:
            make = RemoteUnavailable
            said = f"{self.endpoints.name} fails: {said}"
        elif 300 <= status < 400:
            target = urlsplit(answer.headers.get("location", "")).netloc or "nowhere"
            return ProtocolError(
                f"{self.endpoints.name} sends {method} {path.partition('?')[0]} on to {target}",
                hint="set `endpoint` to the service's new address",
            )
        else:
            make = _BY_STATUS.get(status, ProtocolError)
        return make(said, entity=entity)

    def _forbidden(self, said: str, code: str, entity: str | None) -> Forbidden:
        page = self.endpoints.page(entity) if entity else self.endpoints.portal
        if code == "USER_CERTIFICATION_REQUIRED":
            hint = f"pass the certification quiz on {self.endpoints.portal} first"
        elif match := _SCOPES.search(said):
            scopes = ", ".join(match[1].replace(",", " ").split())
            hint = f"make a token that also allows: {scopes}; then run `synd login`"
        elif _TERMS.search(said):
            hint = f"accept the terms on {page}"
        elif entity:
            hint = f"ask for access on {page}"
        else:
            hint = ""
        return Forbidden(said, hint=hint, entity=entity)


_BY_STATUS: Final[Mapping[int, Callable[..., SyndError]]] = {
    400: UsageError,
    404: NotFound,
    405: NotSupported,
    408: RemoteUnavailable,
    409: Exists,
    410: NotSupported,
    412: Stale,
    413: UsageError,
    422: UsageError,
    423: Busy,
    429: RateLimited,
}


def _reason(answer: _Answer) -> tuple[str, str]:
    """The service's own words, and its error code; empty where there are none."""
    try:
        body = json.loads(answer.body)
    except ValueError:
        return "", ""
    if not isinstance(body, dict):
        return "", ""
    reason = body.get("reason")
    code = body.get("errorCode")
    text = reason.strip() if isinstance(reason, str) else ""
    return redact(text), code if isinstance(code, str) else ""


def _retry_after_s(headers: httpx.Headers) -> float | None:
    """What the service asked for, in seconds. Dates are left: our clock may differ from theirs."""
    text = headers.get("retry-after", "").strip()
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if 0 <= seconds < 86400 else None


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _root(error: BaseException) -> BaseException:
    """The innermost cause: httpx and httpcore each wrap the socket's own error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _why(error: BaseException, root: BaseException) -> str:
    """A short reason without any URL."""
    if isinstance(error, httpx.TimeoutException | TimeoutError):
        return "it took too long"
    if isinstance(root, OSError) and root.strerror:
        return root.strerror
    return redact(str(error)) or type(error).__name__
