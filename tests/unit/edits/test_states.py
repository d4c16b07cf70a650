"""`synd status PATH`, `why` and `ls` where something was changed here."""

from __future__ import annotations

import hashlib

import pytest

from synd.client.credentials import from_base
from synd.client.throttle import Limits
from synd.client.transport import Status
from synd.config import Config
from synd.control import contract
from synd.errors import NotFound, NotSupported, ReadOnly
from synd.ids import EntityId
from syndd.answers import Answers
from tests.support.edits import Desk, HeldFiles, fits


class Client:
    """Stands for the client: the remote's calls come through `Tree`."""

    def __init__(self, desk: Desk) -> None:
        self.downloader = desk.parts.downloader
        self.status = Status("https://x", True, 0, 0, 12, 0, 0, 0, 0, Limits(3, 600), {})


@pytest.fixture
def answers(desk: Desk) -> Answers:
    return build(desk, desk.edits)


def build(desk: Desk, edits: object) -> Answers:
    parts = desk.parts
    return parts.call(
        lambda: Answers(
            config=Config(mount=str(desk.mount)), endpoints=from_base("https://x.invalid"),
            work=parts.work, ready=parts.ready, tree=parts.tree, sizes=parts.sizes, streams=parts.streams,
            cache=parts.cache, fs=parts.fs, pins=parts.pins, poller=parts.poller,
            operations=parts.operations, waits=parts.waits, client=Client(desk),
            events=parts.events, session=lambda: None, edits=edits,
        )
    )  # fmt: skip


class TestStatus:
    def test_status_when_something_is_unsent_is_not_safe(self, desk, answers):
        """Numbers, first paths, and what wants attention."""
        row = desk.create("P/d/n")
        found = desk.parts.run(answers.status())
        fits(found, contract.AppStatus)
        assert not found["safe_to_stop"]
        assert [desk.at("P/d/n")] == found["pending"]["items"]
        desk.set(row, state="held")
        found = desk.parts.run(answers.status())
        assert ["Held"] == [p["type"] for p in found["problems"]]
        assert not found["safe_to_stop"]
        desk.sent(row)

        assert desk.parts.run(answers.status())["safe_to_stop"]

    def test_status_when_a_tracked_folder_holds_its_deletes_is_not_safe(
        self, desk, answers, tmp_path
    ):
        """The service has what was removed here until somebody says yes."""
        folder = desk.tracker.add(tmp_path / "t", EntityId(1))
        folder.held = HeldFiles()
        found = desk.parts.run(answers.status())
        fits(found, contract.AppStatus)
        assert not found["safe_to_stop"]
        folder.held = None

        assert desk.parts.run(answers.status())["safe_to_stop"]

    def test_status_when_things_are_kept_here_is_safe(self, desk, answers):
        """They will never be sent; stopping loses nothing."""
        desk.create("P/d/empty", b"")
        found = desk.parts.run(answers.status())

        assert (True, 1) == (found["safe_to_stop"], found["pending"]["kept_here"])

    def test_problems_name_what_is_blocked_paused_and_in_conflict(self, desk, answers):
        """With the mend of each."""
        desk.set(
            desk.create("P/d/n"), state="blocked", problem='{"type":"Forbidden","title":"no"}'
        )  # fmt: skip
        desk.pusher.pause()
        found = desk.parts.run(answers.status())["problems"]

        assert ["Forbidden", "Paused"] == [p["type"] for p in found]
        assert all(p["hint"] for p in found)
        assert desk.at("P/d/n") == found[0]["path"]

    def test_metrics_count_what_is_unsent(self, desk, answers):
        """By state."""
        desk.create("P/d/n", b"123")
        found = desk.parts.call(answers.metrics)

        assert (1, 0, 3) == (
            found['unsent{state="waiting"}'], found['unsent{state="held"}'], found["unsent_bytes"],
        )  # fmt: skip


class TestPaths:
    def test_new_thing_has_a_state_before_the_service_knows_it(self, desk, answers):
        """No entity, no version; bytes that are here."""
        desk.create("P/d/n", b"123")
        found = desk.parts.run(answers.status_of(desk.at("P/d/n")))

        fits(found, contract.PathStatus)
        assert ("modified", "", None, 3, False) == (
            found["state"], found["entity"], found["version"], found["size"], found["settled"],
        )  # fmt: skip
        assert "waiting" == found["local"]["change"]["state"]

    def test_edit_says_the_version_it_was_made_from(self, desk, answers, ids):
        """And becomes what the service has once it is sent."""
        row = desk.edit("P/d/a", b"other")
        found = desk.parts.run(answers.status_of(desk.at("P/d/a")))
        assert (1, f"syn{ids['P/d/a']}", "modified") == (
            found["base_version"], found["entity"], found["state"],
        )  # fmt: skip
        desk.sent(row)
        found = desk.parts.run(answers.status_of(desk.at("P/d/a")))

        assert ("cached", True) == (found["state"], found["settled"])
        assert "local" not in found

    def test_version_is_told_of_as_it_was(self, desk, answers, remote, ids):
        """`NAME@N` however it is spelled: its own size and md5, not those of the present version."""
        file, digest = ids["P/d/a"], hashlib.md5(b"second!", usedforsecurity=False).hexdigest()
        remote.new_version(file, b"second!")
        remote.new_version(file, b"3rd")
        for spelled in (
            desk.at("P/d/a@2"), desk.at("P/d/@versions/a/2"), f"syn{file}.2",
            desk.at(f"@id/syn{ids['P']}/d/a@2"), desk.at(f"@id/syn{file}.2"),
        ):  # fmt: skip
            found = desk.parts.run(answers.status_of(spelled))
            facts = desk.parts.run(answers.why(spelled))["facts"]

            assert (desk.at("P/d/a@2"), 2, 7, digest, "remote") == (
                found["path"], found["version"], found["size"], found["md5"], found["state"],
            )  # fmt: skip
            assert (2, 7, digest) == (facts["version"], facts["size"], facts["md5"])

    @pytest.mark.parametrize("name", ["P/d/a@9", "P/d/@versions/a/9", "P/d@1", "P/d/@versions/a/x"])
    def test_version_that_is_not_there_is_not_found(self, desk, answers, name):
        """Nor is it taken for the present one, by any question."""
        path = desk.at(name)
        for call in (
            answers.status_of(path), answers.why(path), answers.info(path),
            answers.ls(path, long=False), answers.cache_clear([path]),
        ):  # fmt: skip
            with pytest.raises(NotFound, match="there is no"):
                desk.parts.run(call)

    def test_version_cannot_be_kept_or_described_apart_from_the_file(self, desk, answers):
        """What would be fetched, pinned or dropped is the present version: refused, not done to that."""
        path = desk.at("P/d/a@1")
        for call in (
            answers.prefetch([path], pin=False), answers.cache_pin([path], pinned=True),
            answers.cache_clear([path]), answers.cache_verify([path]),
        ):  # fmt: skip
            with pytest.raises(NotSupported):
                desk.parts.run(call)
        with pytest.raises(ReadOnly):
            desk.ask("annotate", path, {"k": ["v"]}, [])

    @pytest.mark.parametrize(
        ("rest", "said"), [("", "is a tracked folder"), ("/sub/f", "is in the tracked folder")]
    )
    def test_path_in_a_tracked_folder_is_not_found_and_says_where_it_is(
        self, desk, answers, ids, tmp_path, rest, said
    ):
        """By every question: what tells of it, and its path in the mount."""
        desk.parts.names("P/d")
        desk.tracker.add(tmp_path / "t", EntityId(ids["P/d"]))
        path = f"{tmp_path}/t{rest}"
        for call in (
            answers.status_of(path), answers.why(path), desk.edits.wait(path, 60.0),
            desk.edits.difference(path),
        ):  # fmt: skip
            with pytest.raises(NotFound, match=said) as found:
                desk.parts.run(call)
            assert "`synd tracked`" in (found.value.hint or "")
            assert (found.value.hint or "").endswith(desk.at("P/d") + rest)
        with pytest.raises(NotFound, match="is not in the mount"):
            desk.parts.run(answers.why(f"{tmp_path}/tt"))

    def test_path_through_a_link_leads_where_the_mount_leads(self, desk, answers, remote, ids):
        """Nobody who names a path in the mount knows which part of it is a link."""
        remote.link(ids["P"], "way", ids["P/d"])
        found = desk.parts.run(answers.status_of(desk.at("P/way/a")))

        assert desk.at("P/d/a") == found["path"]

    def test_folder_is_settled_when_all_below_it_is(self, desk, answers):
        """With the sum of what is not."""
        desk.create("P/d/n")
        found = desk.parts.run(answers.status_of(desk.at("P")))

        assert (False, 1) == (found["settled"], found["below"]["uploads"])
        assert desk.parts.run(answers.status_of(desk.at("P/e")))["settled"]

    @pytest.mark.parametrize("state", ["blocked", "held"])
    def test_removed_thing_still_says_why_its_delete_was_not_sent(self, desk, answers, state):
        """Under the path where it was."""
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        desk.set(desk.edits.showing.gone_at(desk.at("P/d/a")), state=state)
        found = desk.parts.run(answers.why(desk.at("P/d/a")))

        fits(found, contract.Why)
        assert (state, "delete") == (found["state"], found["facts"]["to_do"])
        assert found["mend"]

    def test_renamed_thing_is_found_under_its_new_name_only(self, desk, answers, ids):
        """The old name leads nowhere, the id to the new one."""
        desk.overlay.rename(desk.overlay.seen(desk.key("P/d/a")), desk.key("P/e"), b"z")
        with pytest.raises(NotFound):
            desk.parts.run(answers.why(desk.at("P/d/nope")))
        by_id = desk.parts.run(answers.status_of(f"syn{ids['P/d/a']}"))

        assert desk.at("P/e/z") == by_id["path"]
        assert by_id == desk.parts.run(answers.status_of(desk.at("P/e/z")))
        with pytest.raises(NotFound):
            desk.parts.run(answers.info(desk.at("P/d/a")))

    def test_listing_lays_local_things_over_those_of_the_service(self, desk, answers):
        """What was removed is not listed, what was made is."""
        desk.parts.names("P/d")
        desk.overlay.remove(desk.overlay.seen(desk.key("P/d/a")))
        desk.create("P/d/n", b"123")
        found = desk.parts.run(answers.ls(desk.at("P/d"), long=True))

        assert [("b", "remote", 2), ("n", "modified", 3)] == [
            (e["name"], e["state"], e["size"]) for e in found["entries"]
        ]
        assert 2 == found["total"]

    def test_what_the_service_does_not_have_cannot_be_asked_of_it(self, desk, answers):
        """Told as not found, with the command that says why."""
        desk.create("P/d/n")
        for call in (
            answers.info(desk.at("P/d/n")),
            answers.prefetch([desk.at("P/d/n")], pin=False),
        ):
            with pytest.raises(NotFound, match="not on the service yet"):
                desk.parts.run(call)


def test_mount_that_takes_no_changes_is_safe_and_says_so(desk):
    """What would change it is refused."""
    answers = build(desk, None)
    found = desk.parts.run(answers.status())

    fits(found["pending"], contract.Pending)
    assert found["safe_to_stop"]
    with pytest.raises(ReadOnly):
        _ = answers.edits
