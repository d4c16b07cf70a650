"""The kernel's own events, from programs that change files the way people's programs do."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading

import pytest

from syndd.watch.engine import State
from tests.support.mounts import eventually
from tests.support.tracking import tree_of

GIT = {
    "GIT_CONFIG_GLOBAL": "/dev/null",
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_AUTHOR_NAME": "a",
    "GIT_AUTHOR_EMAIL": "a@example.org",
    "GIT_COMMITTER_NAME": "a",
    "GIT_COMMITTER_EMAIL": "a@example.org",
}


def run(*command, cwd):
    subprocess.run(
        command, cwd=cwd, check=True, timeout=60, capture_output=True, env=os.environ | GIT
    )


def exchange(folder, one, two):
    """Lets two names change places in one call."""
    library = ctypes.CDLL(None, use_errno=True)
    if library.renameat2(-100, os.fsencode(folder / one), -100, os.fsencode(folder / two), 2) != 0:
        pytest.skip("the file system cannot exchange names")


class TestOneFile:
    def test_file_when_created_then_is_put_once(self, watched):
        """Created, written, closed: one call."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()

        assert ["put f"] == watched.sink.calls
        assert State.WATCHING is watched.status.state
        assert {"synd-track"} == watched.sink.threads

    def test_file_when_deleted_then_is_removed(self, watched):
        """Somebody was seen to delete it."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        (watched.folder / "f").unlink()
        watched.same()

        assert ["f"] == watched.sink.told("remove")

    def test_file_when_created_and_deleted_then_is_nothing(self, watched):
        """What came and went between two looks was never there."""
        (watched.folder / "f").write_bytes(b"one")
        (watched.folder / "f").unlink()
        (watched.folder / "g").write_bytes(b"two")
        watched.same()

        assert ["put g"] == watched.sink.calls

    def test_file_when_moved_then_no_byte_is_sent_again(self, watched):
        """One move, also into another folder."""
        (watched.folder / "d").mkdir()
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        watched.forget()
        (watched.folder / "f").rename(watched.folder / "d" / "g")
        watched.same()

        assert ["move f d/g"] == watched.sink.calls

    def test_file_when_moved_out_then_is_removed_and_back_is_put(self, watched):
        """Outside the tree is away."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        (watched.folder / "f").rename(watched.base / "f")
        watched.same()
        (watched.base / "f").rename(watched.folder / "g")
        watched.same()

        assert ["put f", "remove f", "put g"] == watched.sink.calls

    def test_file_when_still_open_then_waits_for_close(self, watched):
        """Half a file is not sent."""
        with open(watched.folder / "f", "wb", buffering=0) as file:
            file.write(b"half")
            (watched.folder / "g").write_bytes(b"whole")
            eventually(lambda: "put g" in watched.sink.calls)
            assert ["put g"] == watched.sink.calls
            file.write(b" and half")
        watched.same()

        assert ["put g", "put f"] == watched.sink.calls

    def test_file_never_closed_when_quiet_then_is_sent(self, watched):
        """A log file that stays open is sent in its pauses."""
        with open(watched.folder / "log", "wb", buffering=0) as file:
            file.write(b"line")
            watched.same()

        assert b"line" == watched.sink.tree["log"]

    def test_content_when_written_again_unchanged_then_is_not_sent(self, watched):
        """Other times, same bytes: nothing to tell."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        watched.forget()
        (watched.folder / "f").write_bytes(b"one")
        os.utime(watched.folder / "f", (1, 1))
        (watched.folder / "g").write_bytes(b"two")
        watched.same()

        assert ["put g"] == watched.sink.calls

    def test_truncation_by_path_always_is_seen(self, watched):
        """No descriptor is closed by it."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        os.truncate(watched.folder / "f", 1)
        watched.same()

        assert b"o" == watched.sink.tree["f"]

    def test_hard_link_always_is_another_file(self, watched):
        """It has no writer that would close it."""
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        os.link(watched.folder / "f", watched.folder / "g")
        watched.same()

        assert {"f": b"one", "g": b"one"} == watched.sink.tree

    def test_hard_linked_file_when_written_then_changes_under_all_its_names(self, watched):
        """The kernel tells of the name that was written through only."""
        (watched.folder / "f").write_bytes(b"one")
        os.link(watched.folder / "f", watched.folder / "g")
        watched.same()
        with open(watched.folder / "f", "r+b") as file:
            file.write(b"two")
        watched.settled()

        assert {"f": b"two", "g": b"two"} == watched.sink.tree

    def test_name_not_utf8_always_is_told_as_it_is(self, watched):
        """The sink decides what the service can hold."""
        (watched.folder / os.fsdecode(b"n\xff")).write_bytes(b"one")
        watched.same()

        assert {"n\udcff": b"one"} == watched.sink.tree


class TestSaves:
    @pytest.fixture(autouse=True)
    def _file(self, watched):
        (watched.folder / "f.txt").write_bytes(b"one")
        watched.same()
        watched.forget()

    def test_save_when_renamed_over_then_is_one_change(self, watched):
        """As most editors do."""
        (watched.folder / "f.txt.tmp").write_bytes(b"two")
        os.replace(watched.folder / "f.txt.tmp", watched.folder / "f.txt")
        watched.same()

        assert ["put f.txt"] == watched.sink.calls

    def test_save_when_backup_is_deleted_then_is_one_change(self, watched):
        """As vim does with `backupcopy=no`."""
        f, backup = watched.folder / "f.txt", watched.folder / "f.txt~"
        f.rename(backup)
        f.write_bytes(b"two")
        backup.unlink()
        watched.same()

        assert ["put f.txt"] == watched.sink.calls

    def test_save_when_backup_is_kept_then_is_one_change(self, watched):
        """As emacs does: the backup stays local."""
        f, backup = watched.folder / "f.txt", watched.folder / "f.txt~"
        f.rename(backup)
        f.write_bytes(b"two")
        watched.same("f.txt~")

        assert ["put f.txt"] == watched.sink.calls

    def test_save_when_deleted_first_then_is_one_change(self, watched):
        """As some do on foreign file systems."""
        (watched.folder / "f.txt").unlink()
        (watched.folder / "f.txt").write_bytes(b"two")
        watched.same()

        assert ["put f.txt"] == watched.sink.calls

    def test_saves_when_many_in_a_row_then_are_one_change(self, watched):
        """Only the last content is a version."""
        for n in range(20):
            (watched.folder / ".f.txt.swp").write_bytes(b"x")
            (watched.folder / f"t{n}").write_bytes(b"%d" % n)
            os.replace(watched.folder / f"t{n}", watched.folder / "f.txt")
        (watched.folder / ".f.txt.swp").unlink()
        watched.same()

        assert ["put f.txt"] == watched.sink.calls


class TestFolders:
    def test_folder_when_moved_in_with_content_then_all_is_told(self, watched):
        """Deeply, folders first."""
        deep = watched.base / "in" / "a" / "b"
        deep.mkdir(parents=True)
        (deep / "f").write_bytes(b"one")
        (watched.base / "in" / "g").write_bytes(b"two")
        (watched.base / "in").rename(watched.folder / "d")
        watched.same()
        (watched.folder / "d" / "a" / "b" / "h").write_bytes(b"three")
        watched.same()

        assert ["d", "d/a", "d/a/b"] == watched.sink.told("mkdir")

    def test_folder_when_moved_out_then_is_removed_whole(self, watched):
        """One call, and nothing below it is watched any more."""
        (watched.folder / "d" / "a").mkdir(parents=True)
        (watched.folder / "d" / "a" / "f").write_bytes(b"one")
        watched.same()
        watched.forget()
        (watched.folder / "d").rename(watched.base / "out")
        watched.same()
        (watched.base / "out" / "a" / "g").write_bytes(b"two")
        (watched.folder / "h").write_bytes(b"three")
        watched.same()

        assert ["remove d", "put h"] == watched.sink.calls

    def test_folder_when_renamed_then_is_one_move(self, watched):
        """What is written in it afterwards is told under its new name."""
        (watched.folder / "d" / "a").mkdir(parents=True)
        for n in range(20):
            (watched.folder / "d" / "a" / f"f{n}").write_bytes(b"%d" % n)
        watched.same()
        watched.forget()
        (watched.folder / "d").rename(watched.folder / "e")
        watched.same()
        (watched.folder / "e" / "a" / "f0").write_bytes(b"other")
        watched.same()

        assert ["move d e", "put e/a/f0"] == watched.sink.calls

    def test_folder_when_renamed_during_writing_then_nothing_is_lost(self, watched):
        """A writer does not notice; its bytes end under the last name."""
        (watched.folder / "d").mkdir()
        with open(watched.folder / "d" / "f", "wb", buffering=0) as file:
            for n in range(50):
                file.write(b"%d" % n)
                if n % 10 == 5:
                    at = next(watched.folder.iterdir())
                    at.rename(watched.folder / f"d{n}")
        watched.same()

        assert ["d45", "d45/f"] == sorted(watched.sink.tree)

    def test_folder_when_deleted_with_all_in_it_then_is_removed(self, watched):
        """However many events that makes."""
        shutil.copytree(os.path.dirname(os.__file__) + "/json", watched.folder / "d")
        watched.same("d/__pycache__/none")
        watched.forget()
        shutil.rmtree(watched.folder / "d")
        watched.same()

        assert "d" in watched.sink.told("remove")
        assert not watched.sink.told("put")

    def test_folders_when_made_quickly_then_none_is_missed(self, watched):
        """A folder is filled before anybody can watch it."""
        for n in range(60):
            at = watched.folder / f"d{n % 3}" / f"e{n % 5}" / f"g{n}"
            at.mkdir(parents=True)
            (at / "f").write_bytes(b"%d" % n)
        watched.same()

        assert 60 == sum(path.endswith("/f") for path in watched.sink.tree)

    def test_two_folders_when_exchanged_in_one_call_then_are_right_in_the_end(self, watched):
        """The kernel tells it as two moves, one onto the other."""
        for name in ("a", "b"):
            (watched.folder / name).mkdir()
            (watched.folder / name / name).write_bytes(name.encode())
        watched.same()
        exchange(watched.folder, "a", "b")
        watched.same()

        assert {"a": None, "a/b": b"b", "b": None, "b/a": b"a"} == watched.sink.tree

    def test_two_files_when_exchanged_in_one_call_then_change_names(self, watched):
        """Neither is removed, and no byte is sent again."""
        for name in ("a", "b"):
            (watched.folder / name).write_bytes(name.encode())
        watched.same()
        watched.forget()
        exchange(watched.folder, "a", "b")
        watched.same()
        watched.settled()

        assert {"a": b"b", "b": b"a"} == watched.sink.tree
        assert [] == watched.sink.told("put") + watched.sink.told("remove")

    def test_file_when_exchanged_and_written_then_both_are_right(self, watched):
        """The write belongs to the one that has the name now."""
        for name in ("a", "b"):
            (watched.folder / name).write_bytes(name.encode())
        watched.same()
        exchange(watched.folder, "a", "b")
        (watched.folder / "b").write_bytes(b"new")
        watched.same()

        assert {"a": b"b", "b": b"new"} == watched.sink.tree
        assert [] == watched.sink.told("remove")

    @pytest.mark.parametrize("other", ["d", "x.swp"])
    def test_file_when_exchanged_with_what_is_no_file_of_ours_is_right_in_the_end(
        self, watched, other
    ):
        """A folder, or what stays here."""
        (watched.folder / "a").write_bytes(b"a")
        if other == "d":
            (watched.folder / "d").mkdir()
            (watched.folder / "d" / "f").write_bytes(b"f")
        else:
            (watched.folder / other).write_bytes(b"swap")
        watched.same("x.swp")
        exchange(watched.folder, "a", other)
        watched.same("x.swp")
        watched.settled()

        wanted = {"a": None, "a/f": b"f", "d": b"a"} if other == "d" else {"a": b"swap"}
        assert wanted == watched.sink.tree


class TestPrograms:
    def test_many_files_when_created_quickly_then_each_is_put_once(self, watched):
        """2000 of them."""
        for n in range(2000):
            (watched.folder / f"f{n}").write_bytes(b"%d" % n)
        watched.same()

        assert 2000 == len(watched.sink.calls)
        assert 2000 == watched.status.files

    @pytest.mark.skipif(not shutil.which("git"), reason="no git")
    def test_checkout_when_branches_differ_then_the_difference_is_told(self, watched):
        """What is the same in both branches is not sent again; the history stays local."""
        repo = watched.folder
        run("git", "init", "-q", "-b", "one", ".", cwd=repo)
        for n in range(30):
            (repo / "src").mkdir(exist_ok=True)
            (repo / "src" / f"f{n}.py").write_text(f"x = {n}\n")
        (repo / "old").mkdir()
        (repo / "old" / "gone.py").write_text("gone\n")
        run("git", "add", ".", cwd=repo)
        run("git", "commit", "-qm", "one", cwd=repo)
        run("git", "checkout", "-qb", "two", cwd=repo)
        (repo / "src" / "f3.py").write_text("x = 'other'\n")
        (repo / "new.py").write_text("new\n")
        run("git", "rm", "-rq", "old", cwd=repo)
        run("git", "add", ".", cwd=repo)
        run("git", "commit", "-qm", "two", cwd=repo)
        watched.same(".git")
        watched.forget()
        run("git", "checkout", "-q", "one", cwd=repo)
        watched.same(".git")

        assert {"old/gone.py", "src/f3.py"} == set(watched.sink.told("put"))
        assert {"new.py"} == set(watched.sink.told("remove"))

    def test_archive_when_unpacked_then_all_in_it_is_put(self, watched):
        """tar sets the time of each folder last of all, which inotify tells like a change of its content."""
        source = watched.base / "source"
        (source / "d" / "e").mkdir(parents=True)
        for number in range(5):
            (source / "d" / f"{number}").write_bytes(b"%d" % number)
            (source / "d" / "e" / f"{number}").write_bytes(b"in e %d" % number)
        run("tar", "cf", str(watched.base / "a.tar"), "d", cwd=source)
        run("tar", "xf", str(watched.base / "a.tar"), cwd=watched.folder)
        watched.settled()

        assert tree_of(watched.folder) == watched.sink.tree
        assert 10 == len(watched.sink.told("put"))

    @pytest.mark.skipif(not shutil.which("rsync"), reason="no rsync")
    def test_rsync_when_run_again_then_only_what_changed_is_put(self, watched):
        """Its temporary names are never seen."""
        source = watched.base / "source"
        for n in range(40):
            (source / f"d{n % 4}").mkdir(parents=True, exist_ok=True)
            (source / f"d{n % 4}" / f"f{n}").write_bytes(b"%d" % n * 100)
        run("rsync", "-a", f"{source}/", f"{watched.folder}/", cwd=watched.base)
        watched.same()
        assert 40 == len(watched.sink.told("put"))
        watched.forget()
        (source / "d0" / "f0").write_bytes(b"changed")
        (source / "d1" / "f1").unlink()
        run("rsync", "-a", "--delete", f"{source}/", f"{watched.folder}/", cwd=watched.base)
        watched.same()

        assert {"remove d1/f1", "put d0/f0"} == set(watched.sink.calls)

    def test_tree_when_changed_at_random_by_many_then_ends_the_same(self, watched):
        """Writers, movers and deleters at once; in the end the sink has what is there."""
        import random

        def churn(seed):
            dice = random.Random(seed)
            for n in range(150):
                folder = watched.folder / f"d{dice.randrange(4)}"
                file = folder / f"f{dice.randrange(6)}"
                try:
                    match dice.randrange(7):
                        case 0 | 1 | 2:
                            folder.mkdir(exist_ok=True)
                            file.write_bytes(b"%d-%d" % (seed, n))
                        case 3:
                            file.rename(
                                watched.folder / f"d{dice.randrange(4)}" / f"f{dice.randrange(6)}"
                            )
                        case 4:
                            folder.rename(watched.folder / f"d{dice.randrange(4)}")
                        case 5:
                            file.unlink()
                        case 6:
                            folder.rename(watched.base / f"out{seed}-{n}")
                except OSError:
                    continue

        writers = [threading.Thread(target=churn, args=(seed,)) for seed in range(3)]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join()

        watched.same()


class TestSkipped:
    def test_link_never_is_followed(self, watched):
        """Not even one that leads round in a circle; it is reported."""
        (watched.folder / "d").mkdir()
        (watched.folder / "d" / "loop").symlink_to(watched.folder)
        (watched.folder / "passwd").symlink_to("/etc/passwd")
        (watched.folder / "f").write_bytes(b"one")
        watched.same()
        watched.tracker.rescan()
        watched.same()

        assert {"d": None, "f": b"one"} == watched.sink.tree
        assert ["d/loop", "passwd"] == [p.path for p in watched.status.problems]
        assert all("symbolic link" in p.why for p in watched.status.problems)

    def test_link_when_gone_then_is_no_problem_any_more(self, watched):
        """The report is about what is there."""
        (watched.folder / "l").symlink_to("nowhere")
        eventually(lambda: watched.status.problem_count)
        (watched.folder / "l").unlink()

        eventually(lambda: not watched.status.problem_count)

    def test_special_file_always_is_reported(self, watched, monkeypatch):
        """Reading a pipe would wait for ever."""
        os.mkfifo(watched.folder / "pipe")
        with socket.socket(socket.AF_UNIX) as sock:
            monkeypatch.chdir(watched.folder)
            sock.bind("s")
        (watched.folder / "f").write_bytes(b"one")
        watched.same()

        assert {"pipe", "s"} == {p.path for p in watched.status.problems}

    def test_dropping_never_is_sent(self, watched):
        """Swap files, downloads under way; a download is sent once it has its name."""
        for name in (".f.swp", "f~", ".DS_Store", "big.iso.part", "x.crdownload"):
            (watched.folder / name).write_bytes(b"x")
        os.replace(watched.folder / "big.iso.part", watched.folder / "big.iso")
        (watched.folder / "f").write_bytes(b"one")
        watched.same(".f.swp", "f~", ".DS_Store", "x.crdownload")

        assert {"big.iso": b"x", "f": b"one"} == watched.sink.tree

    def test_ignore_file_when_changed_then_takes_effect(self, watched):
        """What it covers stays where it was sent and is told no more; what it covers no more is told."""
        (watched.folder / "d").mkdir()
        (watched.folder / "d" / "a.log").write_bytes(b"one")
        (watched.folder / "b.log").write_bytes(b"one")
        watched.same()
        (watched.folder / "d" / ".syndignore").write_text("*.log\n")
        eventually(lambda: 1 == watched.status.files)
        (watched.folder / "d" / "a.log").write_bytes(b"two")
        (watched.folder / "b.log").write_bytes(b"two")
        eventually(lambda: watched.sink.tree["b.log"] == b"two")
        watched.settled()
        assert b"one" == watched.sink.tree["d/a.log"]

        (watched.folder / "d" / ".syndignore").unlink()
        watched.same()
        assert b"two" == watched.sink.tree["d/a.log"]
