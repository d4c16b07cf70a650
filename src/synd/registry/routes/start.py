"""What clients ask before anything else: the base URLs, the version, and messages nobody reads."""

from __future__ import annotations

from synd.registry.faults import CONCURRENT, PER_MINUTE
from synd.registry.web import Reply, Request, Router, created, ok


def _base(_: Request) -> Reply:
    return ok({"name": "synd registry"})


def _version(request: Request) -> Reply:
    """`limits` tells synd's own client how fast it may go; null is "as fast as you can". `id` is this
    registry's, whatever its port.
    """
    throttled = request.registry.throttle is not None
    return ok(
        {
            "version": "520.0-0-synd",
            "stackInstance": "520",
            "synd-registry": True,
            "id": request.registry.db.meta("registry_id"),
            "limits": {"concurrent": CONCURRENT, "perMinute": PER_MINUTE} if throttled else None,
        }
    )


def _message(request: Request) -> Reply:
    """Accepts a message and drops it: there is no mail here."""
    body = request.json()
    return created({**body, "id": "1", "createdBy": str(request.caller.user)})


def add(router: Router) -> None:
    for path in ("/", "/repo/v1", "/auth/v1", "/file/v1"):
        for method in ("GET", "HEAD"):
            router.add(method, path, _base, scope="open")
    router.add("GET", "/repo/v1/version", _version, scope="open")
    router.add("POST", "/repo/v1/message", _message, scope="modify")
