"""Rows as values: what will be done, in which state they are, why, and the mend."""

from __future__ import annotations

import stat

import pytest

from synd.mirror.push import Progress
from synd.store.local import Local
from syndd import intents
from syndd.intents import Scene

NOW = 1_700_000_000_000_000_000


def row(**fields: object) -> Local:
    """A closed, queued edit of version 3; `fields` replace."""
    values: dict[str, object] = dict.fromkeys(Local._fields, 0)
    values.update(
        id=1 << 39, entity=5, parent=4, name=b"a", kind="file", staged=9, size=3, edit=2, sent=1,
        state="waiting", since_ns=NOW, base_version=3, base_name="a", base_parent=4,
        heir=None, mode=None, target=None, annotations=None, problem=None, stamp="", base_etag="",
    )  # fmt: skip
    values.update(fields)
    return Local(**values)  # type: ignore[arg-type]  # fields by name


@pytest.mark.parametrize(
    ("fields", "moved", "wanted"),
    [
        ({}, False, ["update"]),
        ({}, True, ["move", "update"]),
        ({"edit": 1}, True, ["move"]),
        ({"annotations": "{}"}, False, ["update", "annotate"]),
        ({"entity": None}, False, ["create"]),
        ({"entity": None, "size": 0}, False, []),
        ({"size": 0}, False, []),
        ({"entity": None, "kind": "folder", "staged": 0}, False, ["create"]),
        ({"gone": 1}, True, ["delete"]),
        ({"gone": 1, "entity": None}, False, []),
        ({"local_only": 1}, True, []),
    ],
    ids=str,
)
def test_intents_are_what_is_to_be_done_on_the_service(fields, moved, wanted):
    """In the order in which it is done; nothing for what is kept here."""
    assert wanted == intents.intents(row(**fields), moved=moved)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, "waiting"),
        ({"state": "blocked"}, "blocked"),
        ({"state": "held", "gone": 1}, "held"),
        ({"local_only": 1, "state": "clean"}, "kept-here"),
        ({"size": 0, "state": "blocked"}, "kept-here"),
        ({"size": 0, "state": "clean", "entity": None, "edit": 1}, "kept-here"),
    ],
    ids=str,
)
def test_state_tells_what_never_goes_from_what_waits(fields, wanted):
    """Sending is known from elsewhere only."""
    one = row(**fields)

    assert wanted == intents.state(one, None)
    if wanted == "waiting":
        assert "sending" == intents.state(one, Progress(one.id, 1, 3, NOW))


@pytest.mark.parametrize(
    ("fields", "scene", "text", "mend"),
    [
        ({}, {"paused": True}, "paused", "synd resume"),
        ({}, {"offline_since_ns": NOW}, "offline since 2023-11-14", "once online"),
        ({}, {"folder": "/m/f"}, "waits for its folder /m/f", "synd why"),
        ({}, {"writers": 1}, "open for writing", "closed"),
        ({"not_before_ns": NOW + 2 * 10**9}, {}, "sent in 2 s", ""),
        ({"not_before_ns": NOW - 1}, {}, "turn is next", ""),
        ({"not_before_ns": NOW * 2}, {}, "another change", ""),
        ({}, {"no_login": "the token has expired"}, "expired", "synd login"),
        (
            {"tries": 2, "problem": '{"title": "502", "hint": "h"}', "not_before_ns": NOW + 10**10},
            {},
            "failed 2 times, the last time: 502; tried again in 10 s",
            "h",
        ),
        ({"state": "blocked", "problem": '{"title": "no"}'}, {"path": "/m/a b"}, "no", "'/m/a b'"),
        ({"state": "blocked", "problem": "broken"}, {}, "broken", "upload-now"),
        ({"state": "blocked"}, {}, "refuses", "upload-now"),
        ({"state": "held", "gone": 1}, {"path": "/m/a"}, "one of many deletes", "synd approve /m/a"),
        ({"kind": "special", "mode": stat.S_IFIFO, "local_only": 1}, {}, "a named pipe", ""),
        ({"kind": "symlink", "local_only": 1, "staged": 0}, {}, "leads to nothing", ""),
        ({"local_only": 1}, {"folder_stays": True}, "its folder is kept here", "move"),
        ({"local_only": 1}, {"by_pattern": True}, "fits the setting local_only", "rename"),
        ({"local_only": 1, "name": b".a.swp"}, {}, "editors and desktops", "rename"),
        ({"local_only": 1}, {}, "made to stay here", "copy"),
        ({"size": 0, "state": "clean"}, {}, "no empty files", "holds something"),
        ({"state": "clean", "edit": 1}, {"writers": 1}, "open for writing", "closed"),
    ],
    ids=str,
)  # fmt: skip
def test_reason_says_why_and_what_mends_it(fields, scene, text, mend):
    """Each state has its own words."""
    found = intents.reason(row(**fields), Scene(now_ns=NOW, **scene))

    assert text in found.text
    assert mend in found.mend


def test_reason_while_it_is_sent_tells_the_bytes():
    """As far as they are known."""
    one = row()
    for progress, text in (
        (Progress(one.id, 1, 3, NOW), "1 of 3 bytes"),
        (Progress(one.id, 0, 0, NOW), "being sent"),
    ):
        assert text in intents.reason(one, Scene(now_ns=NOW, sending=progress)).text
