"""How commands show local changes: one line each, the sum, and what they came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from synd.cli import output

if TYPE_CHECKING:
    from synd.control.changes import Pending, TrackedHold, Unsent

STUCK = 65
"""Exit code when what is left waits for somebody: waiting longer does not send it."""
LEFT = 75
"""Exit code when something is unsent that goes by itself later."""

ROWS = 5
"""Changes that a summary shows."""


def sum_of(pending: Pending) -> str:
    """How much is unsent: 3 changes (1.5 MiB)."""
    return f"{output.count(pending['uploads'] + pending['tracked'], 'change')} ({output.size(pending['bytes'])})"


def line(change: Unsent) -> str:
    """One change: what, where, in which state, and why."""
    what = "+".join(change["intents"]) or "keep"
    text = f"{what} {change['path']}  {change['state']}: {change['reason']}"
    return f"{text} — {change['mend']}" if change["mend"] else text


def lines(pending: Pending, most: int = ROWS) -> list[str]:
    """The first changes, how many there are beside them, and what is held in tracked folders."""
    shown = [f"  {line(one)}" for one in pending["changes"][:most]]
    more = pending["uploads"] - len(shown)
    if more > 0:
        shown.append(f"  and {more} more")
    return shown + [_hold(one) for one in pending.get("tracked_holds", ())]


def _hold(hold: TrackedHold) -> str:
    deletes = output.count(hold["deletes"], "delete")
    return f"  {deletes} in {hold['folder']}  held: {hold['reason']} — {hold['mend']}"


def summary(pending: Pending) -> list[str]:
    """What a status says of local changes; empty when there are none."""
    found = []
    if pending["uploads"]:
        states = [
            f"{pending[name]} {name}"
            for name in ("waiting", "sending", "blocked", "held")
            if pending[name]
        ]
        since = f", since {output.age_of(pending['since_at'])}" if pending["since_at"] else ""
        found.append(f"unsent     {sum_of(pending)}: {', '.join(states)}{since}")
        found += lines(pending)
    if pending["paused"]:
        found.append("paused     nothing is sent until `synd resume`")
    if pending["offline_since_at"]:
        found.append(f"offline    since {pending['offline_since_at']}")
    if pending["conflicts"]:
        found.append(
            f"conflicts  {output.count(pending['conflicts'], 'open one')}: `synd conflicts`"
        )
    if pending["tracked"]:
        found.append(
            f"tracked    {output.count(pending['tracked'], 'change')} not in the queue yet"
        )
        if not pending["uploads"]:
            found += lines(pending)
    if pending["writing"]:
        found.append(f"writing    {output.count(pending['writing'], 'file')} open for writing")
    if pending["kept_here"]:
        found.append(
            f"kept here  {output.count(pending['kept_here'], 'thing')}, never sent: empty files, editors' leavings"
        )
    return found


def verdict(pending: Pending) -> str:
    """The one sentence before a shutdown."""
    if pending["verdict"] == "sent":
        if pending["writing"]:
            return "safe to stop: everything that was closed is sent"
        return "safe to stop: everything is sent"
    if pending["verdict"] == "under-way":
        return f"not safe to stop: {sum_of(pending)} unsent; `synd wait` waits for them"
    return (
        f"not everything is sent: {sum_of(pending)} wait for you; "
        "they are safe on this disk, and waiting does not send them"
    )
