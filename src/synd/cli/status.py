"""`synd status`: the daemon's state, or that of one file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from synd.cli import output, unsent
from synd.cli.output import Json

if TYPE_CHECKING:
    from synd.control.contract import PathStatus, Status


def register(app: typer.Typer) -> None:
    app.command(rich_help_panel="Mount")(status)


def status(
    path: Annotated[
        Path | None, typer.Argument(help="A file or folder in the mount; none: the daemon.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what the daemon does and what is unsent, or the state of PATH. Exit 69 when no daemon runs.

    Example: `synd status results.csv`.
    """
    from synd.control import contract
    from synd.control.connect import Control

    control = Control.here()
    if path is not None:
        from synd.cli.mounts import resolve

        one: PathStatus = control.get(contract.STATUS, path=resolve(path))
        output.emit(one, as_json=as_json, human=lambda: _tell_path(one))
        return
    whole: Status = control.get(contract.STATUS)
    output.emit(whole, as_json=as_json, human=lambda: _tell(whole))


_NOBODY = {True: "anonymous", False: "a user that is not known yet"}


def _tell(s: Status) -> None:
    up = output.span(s["uptime_s"])
    lines = [f"daemon     {s['state']}, pid {s['pid']}, version {s['version']}, up {up}"]
    for m in s["mounts"]:
        fast = "passthrough" if m["passthrough"] else f"no passthrough: {m['passthrough_reason']}"
        lines.append(f"mount      {m['path']} ({m['transport']}, {fast})")
    if "browsers" in s:
        at = s["browsers"]["address"]
        what = f"{at} (`synd url FILE`)" if at else f"off: {s['browsers']['problem']}"
        lines.append(f"browsers   {what}")
    service = s["service"]
    line = "online" if service["online"] else f"offline ({service['reason']})"
    lines.append(
        f"service    {service['endpoint']} as {service['user'] or _NOBODY[service['online']]}, "
        f"{line} for {output.age_of(service['since_at'])}, {service['requests']} requests"
        + (", throttled" if service["throttled"] else "")
    )
    fresh = s["freshness"]
    age = (
        "nothing visited"
        if fresh["oldest_s"] is None
        else f"oldest {output.span(fresh['oldest_s'])}"
    )
    lines.append(f"freshness  at most {fresh['setting_s']:g} s in visited folders ({age})")
    cache = s["cache"]
    bound = f" of {output.size(cache['limit_bytes'])}" if cache["limit_bytes"] else ""
    lines.append(
        f"cache      {output.size(cache['bytes'])}{bound} in {cache['objects']} objects, "
        f"{output.size(cache['pinned_bytes'])} pinned, {output.size(cache['disk_free_bytes'])} free"
    )
    jobs = ", ".join(f"{n} {state}" for state, n in s["jobs"].items() if n)
    if jobs:
        lines.append(f"jobs       {jobs}")
    for t in s["transfers"]:
        arrow = "↓" if t["direction"] == "down" else "↑"
        lines.append(
            f"{arrow} {t['path']}  {output.size(t['bytes'])} of {output.size(t['total_bytes'])}, "
            f"{output.size(t['rate_bytes_s'])}/s"
        )
    lines += [
        f"waiting    {w['what']}: {w['reason']}, for {output.age_of(w['since_at'])}, "
        f"gives up at {w['deadline_at']}"
        for w in s["waits"]
    ]
    lines += [
        f"problem    {p['title']}" + (f" — {p['hint']}" if p.get("hint") else "")
        for p in s["problems"]
    ]
    lines += unsent.summary(s["pending"])
    lines.append(unsent.verdict(s["pending"]))
    output.say("\n".join(lines))


def _asked(s: PathStatus) -> str:
    """How old what is known of the service is."""
    if s["checked_at"]:
        return f"asked the service {output.age_of(s['checked_at'])} ago"
    if s["kind"] == "top" or (s["entity"] and "below" in s):
        return "the service was not asked yet what is in it: `ls` asks"
    if s["entity"]:
        return "the service was not asked yet about its folder: `ls` of that asks"
    return "made here: the service does not have it"


def _tell_path(s: PathStatus) -> None:
    version = f" version {s['version']}" if s["version"] is not None else ""
    base = f", edited from version {s['base_version']}" if s["base_version"] is not None else ""
    output.say(f"{s['path']}")
    output.say(
        f"  {s['kind']} {s['entity']}{version}{base}: {s['state']}"
        + (", pinned" if s["pinned"] else "")
    )
    if s["size"] is not None:
        here, size = output.size(s["cached_bytes"]), output.size(s["size"])
        output.say(f"  {here} of {size} here, md5 {s['md5'] or '?'}")
    output.say(f"  {_asked(s)}")
    local = s.get("local")
    if local is not None:
        output.say(f"  {unsent.line(local['change'])}")
        if local["comment"] or local["label"]:
            output.say(f"  next version: {local['comment'] or '-'} (label {local['label'] or '-'})")
        if local["conflict"]:
            output.say(f"  conflict {local['conflict']}: `synd conflicts show {local['conflict']}`")
    below = s.get("below")
    if below is not None:
        for text in unsent.summary(below):
            output.say(f"  {text}")
    output.say("  everything of it is sent" if s["settled"] else "  not sent yet")
