"""Starting and asking for asynchronous jobs (synapse-rest.md 5): the frame, not the work.

`async_job(router, base, work)` gives a resource its ``base/async/start`` and ``base/async/get/{token}``;
`work(request, body)` is checked and bound when the job starts, and runs on a thread.
"""

from __future__ import annotations

from collections.abc import Callable

from synd.registry.web import Json, RefusedError, Reply, Request, Router, bad, created, ok

Work = Callable[[Request, dict[str, Json]], Json]

_GENERIC: dict[str, tuple[Work, str]] = {}
"""Last word of a concreteType → its work and the request's field that holds the path's id."""


def async_job(
    router: Router,
    base: str,
    work: Work,
    *,
    scope: str = "view",
    concrete: str = "",
    entity_field: str = "entityId",
) -> None:
    """Adds the two routes of one kind of job; with `concrete`, /asynchronous/job takes it too."""

    def start(request: Request) -> Reply:
        body = request.json()
        token = request.registry.jobs.start(request.caller, body, lambda: work(request, body))
        return created({"token": token})

    router.add("POST", base + "/async/start", start, scope=scope)
    router.add("GET", base + "/async/get/{token}", _get, scope="view")
    if concrete:
        _GENERIC[concrete] = (work, entity_field)


def _get(request: Request) -> Reply:
    """202 while it runs, then the response object itself, or the failure's own status."""
    status = request.registry.jobs.status(request.caller, request.args["token"])
    failure = status.pop("failureStatus")
    if status["jobState"] == "PROCESSING":
        return ok(status, 202)
    if status["jobState"] == "FAILED":
        raise RefusedError(failure, status["errorMessage"])
    return ok(status["responseBody"])


def _start_generic(request: Request) -> Reply:
    body = request.json()
    kind = str(body.get("concreteType", "")).rpartition(".")[2]
    if kind not in _GENERIC:
        raise bad(f"{body.get('concreteType')!r} is not a job of this registry.")
    work, field = _GENERIC[kind]
    request.args["id"] = str(body.get(field))
    token = request.registry.jobs.start(request.caller, body, lambda: work(request, body))
    return created(_generic_status(request, token))


def _generic_status(request: Request, token: str) -> dict[str, Json]:
    status = request.registry.jobs.status(request.caller, token)
    del status["failureStatus"]
    return status


def _get_generic(request: Request) -> Reply:
    return ok(_generic_status(request, request.args["id"]))


def _cancel(request: Request) -> Reply:
    """Jobs here are short: a cancel is accepted, and the job ends by itself."""
    return ok(_generic_status(request, request.args["id"]))


def add(router: Router) -> None:
    router.add("POST", "/repo/v1/asynchronous/job", _start_generic, scope="modify")
    router.add("GET", "/repo/v1/asynchronous/job/{id}", _get_generic, scope="view")
    router.add("GET", "/repo/v1/asynchronous/job/{id}/cancel", _cancel, scope="view")
