"""Answers that come at once or later, taken one step further."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from synd.errors import SyndError
from synd.mirror.waits import fail, settle, then
from syndd.mount.ops import Answer

U = TypeVar("U")
E = TypeVar("E")


def chain(
    answer: Any, step: Callable[[Any], Answer[U]], unused: Callable[[U], None] | None = None
) -> Answer[U]:
    """`step` of the answer: at once, or when it comes. A step may itself have to wait.

    `unused` gets a result that nobody takes, as the caller has given up meanwhile.
    """
    if not isinstance(answer, Future):
        return step(answer)
    target: Future[U] = Future()

    def done(finished: Future[Any]) -> None:
        if finished.cancelled():
            target.cancel()
            return
        error = finished.exception()
        if error is not None:
            fail(target, error)
            return
        if target.done():
            return
        try:
            result = step(finished.result())
        except BaseException as exception:  # noqa: BLE001 - it belongs to the waiter
            fail(target, exception)
            return
        if isinstance(result, Future):
            then(result, target, lambda value: value)
        elif not settle(target, result) and unused is not None:
            unused(result)

    answer.add_done_callback(done)
    return target


def unless(answer: Future[U], failed: type[SyndError], instead: E) -> Future[U | E]:
    """The answer, or `instead` when it ends in that failure."""
    target: Future[U | E] = Future()

    def done(finished: Future[U]) -> None:
        if not finished.cancelled() and isinstance(finished.exception(), failed):
            settle(target, instead)
        else:
            then(finished, target, lambda value: value)

    answer.add_done_callback(done)
    return target
