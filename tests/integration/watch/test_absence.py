"""What happened while nobody looked: restarts, lost events, limits of the kernel, folders that are not there."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from synd.errors import Busy, CacheFull, UsageError
from synd.ids import EntityId
from synd.store.tracked import Options
from syndd.watch.engine import State
from syndd.watch.source import Intake, Kind, Refusal
from tests.support.mounts import eventually
from tests.support.tracking import FakeSource


@pytest.fixture
def filled(watched):
    """Two folders with files, all told."""
    for folder in ("a", "b/c"):
        (watched.folder / folder).mkdir(parents=True)
        for n in range(10):
            (watched.folder / folder / f"f{n}").write_bytes(f"{folder}{n}".encode())
    watched.same()
    watched.forget()
    return watched


@pytest.fixture
def away(filled):
    """The same, with the daemon stopped."""
    filled.stop()
    return filled


class TestRestart:
    def test_nothing_when_nothing_changed_then_is_told(self, away):
        """A start costs no call."""
        away.start()
        away.settled()

        assert [] == away.sink.calls

    def test_changes_while_away_always_are_found(self, away):
        """Created, changed, deleted, in known folders and new ones."""
        (away.folder / "a" / "f0").write_bytes(b"other")
        (away.folder / "a" / "f1").unlink()
        (away.folder / "n" / "m").mkdir(parents=True)
        (away.folder / "n" / "m" / "f").write_bytes(b"new")
        away.start()
        away.same()

        assert {"mkdir n", "mkdir n/m", "put n/m/f", "put a/f0", "remove a/f1"} == set(
            away.sink.calls
        )

    def test_moves_while_away_never_send_a_byte_again(self, away):
        """Files, folders, and what was moved out of moved folders; recognized by inode."""
        (away.folder / "b" / "c" / "f0").rename(away.folder / "top")
        (away.folder / "b").rename(away.folder / "x")
        (away.folder / "a" / "f0").rename(away.folder / "x" / "c" / "f0")
        one, two, aside = (away.folder / "a" / name for name in ("f1", "f2", "aside"))
        one.rename(aside)
        two.rename(one)
        aside.rename(two)
        away.start()
        away.same()

        assert not away.sink.told("put")
        assert not away.sink.told("remove")
        assert "b x" in away.sink.told("move")

    def test_save_while_away_always_is_a_change_of_the_file(self, away):
        """Another inode under the same name is the same file."""
        (away.folder / "t").write_bytes(b"other")
        os.replace(away.folder / "t", away.folder / "a" / "f0")
        away.start()
        away.same()

        assert ["put a/f0"] == away.sink.calls

    @pytest.mark.req("S2-46")
    def test_same_size_and_mtime_while_away_always_is_found_by_ctime(self, away):
        """A program may set the modification time back; it cannot set the change time."""
        file = away.folder / "a" / "f0"
        before = file.stat()
        file.write_bytes(b"A0")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        away.start()
        away.same()

        assert ["put a/f0"] == away.sink.calls

    @pytest.mark.req("S2-46")
    def test_touch_while_away_never_sends_again(self, away):
        """A different time means to hash again; the same hash means nothing changed."""
        for file in (away.folder / "a").iterdir():
            os.utime(file)
        away.start()
        away.settled()

        assert [] == away.sink.calls

    def test_file_the_sink_refused_always_is_told_at_the_next_start(self, watched):
        """Nothing is forgotten because there was no room once."""
        watched.sink.refuse["f"] = UsageError("not such a name")
        (watched.folder / "f").write_bytes(b"one")
        eventually(lambda: watched.status.problem_count)
        watched.settled()
        assert ("f", "not such a name") == watched.status.problems[0][:2]
        assert 1 == watched.status.unsent
        watched.stop()
        watched.sink.refuse.clear()
        watched.start()
        watched.same()

        assert 0 == watched.status.problem_count + watched.status.unsent

    def test_root_untracked_and_tracked_again_then_all_is_told_anew(self, filled):
        """Untracking forgets what was told, and deletes nothing."""
        filled.tracker.remove(filled.folder)
        assert [] == filled.tracker.roots() == filled.tracker.status()
        (filled.folder / "f").write_bytes(b"one")
        filled.tracker.add(filled.folder, EntityId(6), filled.options)
        filled.same()

        assert 21 == len(filled.sink.told("put"))
        assert not filled.sink.told("remove")


class TestMass:
    @pytest.mark.announces("track.held")
    def test_more_than_half_missing_after_a_scan_then_waits_for_a_yes(self, away):
        """An accident looks like that; what was added meanwhile is told all the same."""
        shutil.rmtree(away.folder / "a")
        (away.folder / "b" / "c" / "f0").unlink()
        (away.folder / "new").write_bytes(b"new")
        away.start()
        away.settled()

        assert ["put new"] == away.sink.calls
        assert (11, 20) == (away.status.held.missing_files, away.status.held.known_files)
        away.tracker.confirm(away.folder)
        away.same()
        assert away.status.held is None
        assert {"a", "b/c/f0"} == set(away.sink.told("remove"))

    @pytest.mark.announces("track.held")
    def test_held_when_all_is_back_then_is_forgotten(self, away):
        """The disk was mounted late, say."""
        (away.folder / "a").rename(away.base / "a")
        (away.folder / "b").rename(away.base / "b")
        away.start()
        away.settled()
        assert away.status.held
        (away.base / "a").rename(away.folder / "a")
        (away.base / "b").rename(away.folder / "b")

        eventually(lambda: away.status.held is None)
        away.same()
        assert not away.sink.told("remove")

    def test_many_deletions_seen_as_events_never_are_held(self, filled):
        """Somebody did it, before our eyes; the guards behind the sink have the last word."""
        shutil.rmtree(filled.folder / "a")
        shutil.rmtree(filled.folder / "b")
        filled.same()

        assert {} == filled.sink.tree


@pytest.mark.announces("track.missing")
class TestMissing:
    def test_root_when_moved_away_then_is_missing_and_nothing_is_deleted(self, filled):
        """It resumes by itself when the folder is back, and finds what changed in between."""
        filled.folder.rename(filled.base / "elsewhere")
        eventually(lambda: filled.status.state is State.MISSING)
        (filled.base / "elsewhere" / "new").write_bytes(b"new")
        (filled.base / "elsewhere" / "a" / "f0").unlink()
        assert "not there" in filled.status.why
        assert filled.tracker.settled()

        (filled.base / "elsewhere").rename(filled.folder)
        filled.same()
        assert State.WATCHING is filled.status.state
        assert {"put new", "remove a/f0"} == set(filled.sink.calls)

    def test_another_folder_in_its_place_never_is_taken_for_it(self, filled):
        """An empty one has not lost its files, and a full one is not told."""
        filled.folder.rename(filled.base / "elsewhere")
        filled.folder.mkdir()
        eventually(lambda: "is its disk mounted?" in filled.status.why)
        assert State.MISSING is filled.status.state
        (filled.folder / "x").write_bytes(b"x")
        eventually(lambda: "another folder" in filled.status.why)

        assert [] == filled.sink.calls

    def test_root_when_deleted_whole_then_is_missing(self, filled):
        """`rm -r` of the root itself says nothing about what should be there."""
        shutil.rmtree(filled.folder)
        eventually(lambda: filled.status.state is State.MISSING)

        assert [] == filled.sink.calls

    @pytest.mark.fuse
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a file system")
    def test_root_when_unmounted_then_is_missing_until_mounted_again(self, place):
        """What lay on it is not deleted; the same disk is known again whatever number it has then."""
        image = place.base / "image"
        with open(image, "wb") as file:
            file.truncate(32 << 20)
        if not shutil.which("mkfs.ext4"):
            pytest.skip("no mkfs.ext4")
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, timeout=60)

        def mount():
            done = subprocess.run(
                ["mount", "-o", "loop", image, place.folder], capture_output=True, timeout=60
            )
            if done.returncode != 0:
                pytest.skip("this machine mounts no loop device")

        def unmount():
            subprocess.run(["umount", place.folder], timeout=60, capture_output=True)

        mount()
        try:
            place.start()
            for n in range(12):
                (place.folder / f"f{n}").write_bytes(b"%d" % n)
            place.same("lost+found")
            place.forget()
            unmount()
            eventually(lambda: place.status.state is State.MISSING)
            assert [] == place.sink.calls
            mount()
            (place.folder / "f0").unlink()
            place.same("lost+found")
            assert ["remove f0"] == place.sink.calls
            (place.folder / "f1").write_bytes(b"other")
            place.same("lost+found")
        finally:
            unmount()


class TestLimits:
    @pytest.mark.announces("track.limit")
    @pytest.mark.parametrize(
        ("refusal", "line"),
        [
            (Refusal.WATCHES, "sysctl -w fs.inotify.max_user_watches="),
            (Refusal.INSTANCES, "sysctl -w fs.inotify.max_user_instances="),
        ],
    )
    def test_limit_when_met_then_is_told_with_its_remedy_and_scanned_instead(
        self, place, refusal, line
    ):
        """Changes are found all the same, only later; no watch is kept from those who can use it."""
        sources = []

        def source(post):
            sources.append(FakeSource(post, most=2, refusal=refusal))
            return sources[0]

        for n in range(5):
            (place.folder / f"d{n}").mkdir()
        place.start(source=source)
        place.same()
        assert State.SCANNING is place.status.state
        assert line in place.status.remedy
        assert int(place.status.remedy.split(line)[1].split()[0]) >= 512
        assert {} == sources[0].folders

        (place.folder / "d1" / "f").write_bytes(b"one")
        place.same()
        (place.folder / "d1" / "f").unlink()
        place.same()
        assert ["f"] == [path.rpartition("/")[2] for path in place.sink.told("remove")]

    @pytest.mark.announces("track.limit")
    def test_limit_when_lifted_then_is_watched_again(self, place):
        """By itself, after some scans."""
        sources = []

        def source(post):
            sources.append(FakeSource(post, most=0))
            return sources[0]

        place.start(source=source)
        eventually(lambda: place.status.state is State.SCANNING)
        sources[0].most = 100

        eventually(lambda: place.status.state is State.WATCHING)
        assert "" == place.status.remedy == place.status.why

    def test_folder_made_beyond_the_limit_then_is_found_by_scanning(self, place):
        """The limit may be met by an event too."""
        sources = []

        def source(post):
            sources.append(FakeSource(post))
            return sources[0]

        place.start(source=source)
        place.settled()
        assert [place.folder] == list(sources[0].folders)

    def test_overflow_always_means_a_scan(self, place):
        """Events that were lost are made up for."""
        sources = []

        def source(post):
            sources.append(FakeSource(post))
            return sources[0]

        place.start(source=source)
        place.settled()
        (place.folder / "d").mkdir()
        (place.folder / "d" / "f").write_bytes(b"one")
        sources[0].tell(Kind.OVERFLOW, place.folder)
        place.same()

        assert {place.folder, place.folder / "d"} == set(sources[0].folders)

    def test_own_queue_when_full_then_is_scanned(self, place):
        """With room for a handful of events, hundreds of changes are found, moved folders among them."""
        place.start(intake=Intake(bound=16))
        place.settled()
        for n in range(400):
            folder = place.folder / f"d{n % 7}"
            folder.mkdir(exist_ok=True)
            (folder / f"f{n}").write_bytes(b"%d" % n)
            if n % 50 == 49:
                folder.rename(place.folder / f"moved{n}")
        place.same()
        (place.folder / "moved49" / "late").write_bytes(b"late")

        place.same()

    @pytest.mark.announces("watch.reader_died")
    def test_reader_when_dead_then_all_is_watched_anew(self, place):
        """As if it had overflowed."""
        sources = []

        def source(post):
            sources.append(FakeSource(post))
            return sources[0]

        place.start(source=source)
        place.settled()
        (place.folder / "f").write_bytes(b"one")
        sources[0].dead = True
        place.tracker.rescan()
        place.same()

        assert [place.folder] == list(sources[0].folders)


class TestSink:
    @pytest.mark.announces("track.refused")
    def test_sink_without_room_when_it_has_some_again_then_is_told(self, watched):
        """What may work later is tried later, by itself."""
        watched.sink.refuse["f"] = CacheFull("no room", hint="make some")
        (watched.folder / "f").write_bytes(b"one")
        (watched.folder / "g").write_bytes(b"two")
        eventually(lambda: "put f" in watched.sink.calls and "g" in watched.sink.tree)
        assert [("f", "no room", "make some")] == list(watched.status.problems)
        watched.sink.refuse.clear()

        watched.same()
        assert not watched.status.problem_count

    @pytest.mark.announces("track.refused")
    def test_sink_that_is_busy_when_it_no_longer_is_then_is_told_all(self, place):
        """A folder of the service has still to be listed, say: what depends on it waits, soon tried again."""
        (place.folder / "d").mkdir()
        for n in range(20):
            (place.folder / "d" / f"f{n}").write_bytes(b"%d" % n)
        place.sink.refuse["d"] = Busy("not listed yet")
        place.start()
        eventually(lambda: place.status.problem_count)
        assert not place.sink.told("put")
        place.sink.refuse.clear()

        place.same()
        assert not place.status.problem_count

    def test_folder_of_files_the_sink_is_busy_with_is_asked_for_once(self, watched):
        """Not every file of it is read and refused in vain."""
        (watched.folder / "d").mkdir()
        watched.same()
        names = [f"d/f{n}" for n in range(20)]
        watched.sink.refuse = dict.fromkeys(names, Busy("not listed yet"))
        for name in names:
            (watched.folder / name).write_bytes(b"x")
        eventually(lambda: watched.sink.told("put"))
        eventually(lambda: watched.status.waiting == 20)
        assert 5 > len(watched.sink.told("put"))
        watched.sink.refuse.clear()

        watched.same()

    def test_file_when_changed_while_it_is_taken_then_is_taken_again(self, watched):
        """A snapshot of two states is nobody's file."""
        turns = iter(range(2))

        def change(path):
            if next(turns, None) is not None:
                with open(watched.folder / path, "ab") as file:
                    file.write(b" more")

        watched.sink.after_put = change
        (watched.folder / "f").write_bytes(b"one")
        watched.same()

        assert b"one more more" == watched.sink.tree["f"]

    def test_file_when_gone_while_it_is_taken_then_is_no_problem(self, watched):
        """Its deletion is told by its own event."""
        watched.sink.before_put = lambda path: (watched.folder / path).unlink(missing_ok=True)
        (watched.folder / "f").write_bytes(b"one")
        eventually(lambda: watched.sink.calls)
        watched.same()

        assert {} == watched.sink.tree
        assert not watched.status.problem_count

    def test_own_change_when_recorded_then_is_not_told(self, watched):
        """The daemon writes into a tracked folder what it got from the service."""
        file = watched.folder / "f"
        with watched.tracker.own.changing(file):
            file.write_bytes(b"from the service")
            watched.tracker.record(file)
        (watched.folder / "g").write_bytes(b"two")
        eventually(lambda: watched.tracker.own.next_s() is None)
        watched.settled()

        assert ["put g"] == watched.sink.calls

    def test_change_beside_an_own_one_never_is_lost(self, watched):
        """Somebody edits the file while the daemon writes it: it is looked at once the time is over."""
        file = watched.folder / "f"
        with watched.tracker.own.changing(file):
            file.write_bytes(b"from the service")
            watched.tracker.record(file)
            file.write_bytes(b"by somebody")

        watched.same()


class TestPlaces:
    def test_root_when_it_overlaps_another_then_is_refused(self, watched):
        """A change would be told twice."""
        (watched.folder / "in").mkdir()
        for folder in (watched.folder / "in", watched.base):
            with pytest.raises(UsageError, match="cannot be tracked"):
                watched.tracker.add(folder, EntityId(9))

        assert 1 == len(watched.tracker.roots())

    def test_roots_when_several_then_do_not_disturb_each_other(self, watched):
        """Same names in both."""
        other = watched.base / "other"
        other.mkdir()
        root = watched.tracker.add(other, EntityId(9), Options(quiet_s=0.1))
        (other / "f").write_bytes(b"other")
        watched.settled()
        assert {"f": b"other"} == watched.sink.tree
        assert (root, ("d", "f")) == watched.tracker.find(other / "d" / "f")
        watched.tracker.remove(other)
        (other / "g").write_bytes(b"never told")
        (watched.folder / "h").write_bytes(b"told")
        eventually(lambda: "h" in watched.sink.tree)

        assert "g" not in watched.sink.tree
