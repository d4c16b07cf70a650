"""Programs that write: whatever they do in the mount, the service ends with the same, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import eventually
from tests.support.world import Remote, World, random_file

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(150)]

SETTLED_S = 60


def need(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture(scope="module", params=["kernel", "libfuse"])
def writable(
    request: pytest.FixtureRequest, ground: Path, shared_server: Remote
) -> Iterator[World]:
    """A mount that tests write to, each in a project of its own."""
    root = ground / f"writable-{request.param}"
    one = World(
        root,
        shared_server,
        transport=request.param,
        upload_delay_s=0.1,
        delete_delay_s=0.3,
        freshness_s=1,
        request_concurrency=16,
        requests_per_minute=0,
    )
    try:
        one.up()
        yield one
    finally:
        one.close()


@pytest.fixture
def place(writable: World, request: pytest.FixtureRequest) -> tuple[str, str]:
    """(project id, its path in the mount) of a new project with a folder of three files."""
    server = writable.remote
    name = f"P{abs(hash(request.node.nodeid)) % 10**9} {writable.transport}"
    project = server.project(name)
    folder = server.folder(project, "folder")
    server.file(folder, "a.txt", b"first a\n")
    server.file(folder, "b.txt", b"first b\n")
    server.file(project, "top.csv", b"x,y\n1,2\n")
    writable.text("ls", writable.at("@id", project) + "/")
    return project, f"@id/{project}"


def settled(world: World) -> None:
    """Waits until the service has everything."""
    done = world.synd("wait", "--timeout", str(SETTLED_S), "--json", timeout_s=SETTLED_S + 30)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"


def sh(world: World, where: str, script: str, *args: str, timeout_s: float = 60.0) -> str:
    """Output of a shell script in a folder of the mount, which must succeed."""
    done = world.run(
        "sh", "-ec", script, "sh", *args, cwd=world.at(where) + "/", timeout_s=timeout_s
    )
    assert done.status == 0, f"{script}: {done.status} {done.out}{done.err}\n{world.log()[-3000:]}"
    return done.out


def held(world: World, project: str) -> dict[str, str | None]:
    """Path → md5 (None for folders) on the service."""
    return {path: what.md5 for path, what in world.remote.tree(project).items()}


BEFORE = {
    "folder": None,
    "folder/a.txt": md5_of(b"first a\n"),
    "folder/b.txt": md5_of(b"first b\n"),
    "top.csv": md5_of(b"x,y\n1,2\n"),
}


class TestPlaces:
    def test_place_by_id_when_its_project_enters_the_mount_stays_good(self, writable):
        """Whoever works in ``@id/syn123`` works on when it comes to have another place."""
        server = writable.remote
        name = f"Later {writable.transport}"
        writable.text("ls", writable.at())
        project = server.project(name)
        table = server.file(server.folder(project, "folder"), "a.txt", b"first\n")
        script = """
            stat -c %F . "$2"; exec 3< "$3"
            for i in $(seq 100); do test -e "$1" && break; sleep 0.2; done
            test -e "$1"; sleep 1.5; stat "$2" "$3" > /dev/null
            cat <&3; cat folder/a.txt; echo second > folder/a.txt; cat folder/a.txt"""
        entered, by_id = writable.at(name), writable.at("@id")
        said = sh(
            writable, f"@id/{project}", script, entered, f"{by_id}/{project}", f"{by_id}/{table}"
        )

        assert ["directory", "directory", "first", "first", "second"] == said.splitlines()
        assert writable.text("cat", f"{entered}/folder/a.txt") == "second\n"
        settled(writable)
        assert md5_of(b"second\n") == held(writable, project)["folder/a.txt"]


class TestSimpleChanges:
    def test_new_file_when_closed_is_read_back_and_sent(self, writable, place):
        """What was written is there at once, and on the service a moment later."""
        project, where = place
        assert "hello\n" == sh(writable, where, "echo hello > new.txt; cat new.txt")
        settled(writable)

        assert {**BEFORE, "new.txt": md5_of(b"hello\n")} == held(writable, project)
        assert "hello\n" == sh(writable, where, "cat new.txt")

    @pytest.mark.req("S2-11")
    def test_file_when_rewritten_is_one_new_version(self, writable, place):
        """Overwriting makes version 2 of the same entity."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"]
        sh(writable, where, "echo second > folder/a.txt; cat folder/a.txt")
        settled(writable)

        after = writable.remote.tree(project)["folder/a.txt"]
        assert (before.id, 2, md5_of(b"second\n")) == (after.id, after.version, after.md5)

    def test_file_when_appended_to_keeps_what_it_had(self, writable, place):
        """`>>` goes on at the end."""
        project, where = place
        sh(writable, where, "echo more >> folder/a.txt; echo even >> folder/a.txt")
        settled(writable)

        assert md5_of(b"first a\nmore\neven\n") == held(writable, project)["folder/a.txt"]

    def test_file_when_opened_for_writing_and_left_alone_stays(self, writable, place):
        """No change, no version."""
        project, where = place
        sh(writable, where, "exec 3<>folder/a.txt; exec 3>&-")
        settled(writable)

        assert 1 == writable.remote.tree(project)["folder/a.txt"].version

    def test_folders_when_made_in_one_go_hold_their_files(self, writable, place):
        """A folder before what it holds, whatever the depth."""
        project, where = place
        sh(writable, where, "mkdir -p one/two/three; echo x > one/two/three/x; echo y > one/y")
        settled(writable)

        found = held(writable, project)
        assert md5_of(b"x\n") == found["one/two/three/x"]
        assert md5_of(b"y\n") == found["one/y"]

    def test_file_when_removed_goes_to_the_trash(self, writable, place):
        """rm hides it at once; the service follows."""
        project, where = place
        sh(writable, where, "rm folder/a.txt; ! test -e folder/a.txt")
        settled(writable)

        assert "folder/a.txt" not in held(writable, project)

    @pytest.mark.req("S2-27")
    def test_folder_when_removed_with_all_in_it_is_gone(self, writable, place):
        """rm -r."""
        project, where = place
        sh(writable, where, "rm -r folder; ls")
        settled(writable)

        assert {"top.csv"} == set(held(writable, project))

    @pytest.mark.req("S2-50")
    def test_file_when_renamed_and_moved_keeps_its_entity(self, writable, place):
        """No byte moves, the version stays."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"]
        sh(writable, where, "mkdir new; mv folder/a.txt new/c.txt; cat new/c.txt")
        settled(writable)

        after = writable.remote.tree(project)["new/c.txt"]
        assert (before.id, before.version, before.md5) == (after.id, after.version, after.md5)
        assert "folder/a.txt" not in held(writable, project)

    def test_folder_when_renamed_keeps_what_it_holds(self, writable, place):
        """One change, however much lies in it."""
        project, where = place
        before = writable.remote.tree(project)["folder"]
        sh(writable, where, "mv folder renamed; cat renamed/a.txt; echo n > renamed/n.txt")
        settled(writable)

        found = writable.remote.tree(project)
        assert before.id == found["renamed"].id
        assert md5_of(b"n\n") == found["renamed/n.txt"].md5

    def test_file_when_empty_stays_here_until_it_has_bytes(self, writable, place):
        """The service keeps no empty files."""
        project, where = place
        sh(writable, where, "touch empty; test -e empty")
        assert "empty" not in held(writable, project)
        sh(writable, where, "echo now > empty")
        settled(writable)

        assert md5_of(b"now\n") == held(writable, project)["empty"]

    @pytest.mark.parametrize("name", ["naïve ü.txt", "a:b=c.txt", "x@y.txt", " lead", "tab\tname"])
    def test_name_that_the_service_refuses_is_kept_by_both(self, writable, place, name):
        """The name here is what was asked for; there it is spelled so that it can be given back."""
        project, where = place
        sh(writable, where, 'echo odd > "$1"; cat "$1"', name)
        settled(writable)

        assert md5_of(b"odd\n") in held(writable, project).values()
        assert name in sh(
            writable, where, "ls -1 --quoting-style=literal --show-control-chars"
        ).split("\n")

    @pytest.mark.parametrize("name", ["a@3", "@versions", "@info"])
    def test_name_of_synds_own_is_refused(self, writable, place, name):
        """They would lead to something else."""
        _, where = place

        assert writable.errno(f"open(argv[0] + '/{name}', 'x')", writable.at(where)) in (
            "EINVAL",
            "EEXIST",
            "EISDIR",
            "EROFS",
        )

    @pytest.mark.parametrize(
        "act",
        [
            "os.rmdir(argv[0] + '/@ready')",
            "os.rmdir(argv[0] + '/@versions')",
            "os.unlink(argv[0] + '/top.csv@1')",
            "os.rename(argv[0] + '/@info', argv[0] + '/other')",
            "os.rename(argv[0] + '/top.csv@1', argv[0] + '/other')",
            "open(argv[0] + '/@info/x', 'x')",
        ],
    )
    def test_name_of_synds_own_cannot_be_removed_or_moved(self, writable, place, act):
        """It is there, so that it is read-only rather than missing."""
        _, where = place

        assert writable.errno(act, writable.at(where)) == "EROFS"

    def test_hard_link_is_refused(self, writable, place):
        """An entity has one name."""
        _, where = place
        top = writable.at(where)

        assert "EPERM" == writable.errno("os.link(argv[0] + '/top.csv', argv[0] + '/l')", top)

    def test_symlink_when_it_leads_inside_is_a_link_on_the_service(self, writable, place):
        """Others stay on this machine."""
        project, where = place
        sh(
            writable,
            where,
            "ln -s folder/a.txt link; ln -s /etc/passwd outside; cat link; readlink outside",
        )
        settled(writable)

        found = writable.remote.tree(project)
        assert "link" == found["link"].kind
        assert "outside" not in found

    def test_mode_and_times_when_set_are_kept_here(self, writable, place):
        """They survive the upload."""
        _, where = place
        script = "echo x > s.sh; chmod 750 s.sh; touch -d 2001-02-03T04:05:06Z s.sh; stat -c '%a %Y' s.sh"
        first = sh(writable, where, script)
        settled(writable)

        assert "750 981173106\n" == first == sh(writable, where, "stat -c '%a %Y' s.sh")

    @pytest.mark.req("S2-33")
    def test_annotation_when_set_reaches_the_service(self, writable, place):
        """An extended attribute is an annotation."""
        project, where = place
        top = writable.at(where)
        code = "os.setxattr(argv[0] + '/top.csv', 'user.synapse.annotations.tissue', b'liver')"
        assert "ok" == writable.errno(code, top)
        settled(writable)

        entity = writable.remote.tree(project)["top.csv"].id
        held_there = writable.remote.rest("GET", f"/entity/{entity}/annotations2")["annotations"]
        assert ["liver"] == held_there["tissue"]["value"]

    def test_annotation_when_the_service_would_refuse_it_is_einval_at_once(self, writable, place):
        """Nothing is queued that could never be sent."""
        _, where = place
        top = writable.at(where)
        code = "os.setxattr(argv[0] + '/top.csv', 'user.synapse.annotations.bad-key', b'liver')"

        assert "EINVAL" == writable.errno(code, top)
        said = writable.synd("annotate", f"{top}/top.csv", "good=1", "bad-key=2")
        assert (64, True) == (said.status, "bad-key" in said.err)
        assert json.loads(writable.synd("status", "--json").out)["safe_to_stop"] is True


class TestSavesOfEditors:
    """The sequences of system calls with which editors save."""

    def check(self, world: World, project: str, before: str, data: bytes) -> None:
        settled(world)
        found = world.remote.tree(project)
        after = found["folder/a.txt"]
        assert (before, 2, md5_of(data)) == (after.id, after.version, after.md5)
        assert set(BEFORE) == set(found)

    def test_vim_when_it_saves_makes_one_version(self, writable, place):
        """Swap file, backup by renaming, new file, delete of the backup."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(
            writable,
            where,
            """cd folder; echo swap > .a.txt.swp; echo > 4913; rm 4913
            mv a.txt a.txt~; echo edited > a.txt; sync a.txt; rm a.txt~; rm .a.txt.swp""",
        )

        self.check(writable, project, before, b"edited\n")

    def test_real_vim_when_it_saves_makes_one_version(self, writable, place):
        """The program itself, where it is there."""
        need("vim")
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(writable, where, "vim -N -u NONE -es -c '%s/first/edited/' -c wq folder/a.txt")

        self.check(writable, project, before, b"edited a\n")

    def test_emacs_when_it_saves_makes_one_version_and_keeps_its_backup_here(self, writable, place):
        """Lock symlink, backup by renaming, new file; the backup stays."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(
            writable,
            where,
            """cd folder; ln -s user@host.123 '.#a.txt'; mv a.txt a.txt~
            echo edited > a.txt; rm '.#a.txt'; cat a.txt~""",
        )

        self.check(writable, project, before, b"edited\n")
        assert "first a\n" == sh(writable, where, "cat folder/a.txt~")

    def test_office_when_it_saves_makes_one_version(self, writable, place):
        """Lock file, new file under another name, rename over."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(
            writable,
            where,
            """cd folder; echo lock > '.~lock.a.txt#'; echo edited > lu123.tmp
            mv lu123.tmp a.txt; rm '.~lock.a.txt#'""",
        )

        self.check(writable, project, before, b"edited\n")

    def test_sed_in_place_makes_one_version(self, writable, place):
        """`sed -i`: a temporary file, renamed over."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(writable, where, "sed -i s/first/edited/ folder/a.txt")

        self.check(writable, project, before, b"edited a\n")

    def test_nano_style_save_makes_one_version(self, writable, place):
        """Truncate and write in place."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        code = "f = open(argv[0], 'r+b'); f.truncate(0); f.write(b'edited\\n'); f.close()"
        assert "ok" == writable.errno(code, writable.at(where, "folder", "a.txt"))

        self.check(writable, project, before, b"edited\n")

    def test_delete_and_create_at_once_is_one_version(self, writable, place):
        """`rm` and `cp` in one breath."""
        project, where = place
        before = writable.remote.tree(project)["folder/a.txt"].id
        sh(writable, where, "rm folder/a.txt; echo edited > folder/a.txt")

        self.check(writable, project, before, b"edited\n")


def local_tree(root: Path) -> dict[str, str | None]:
    """Path → md5 (None for folders) of an ordinary folder; empty files are left out."""
    found: dict[str, str | None] = {}
    for path in sorted(root.rglob("*")):
        if path.is_symlink():
            continue
        name = str(path.relative_to(root))
        if path.is_dir():
            found[name] = None
        elif path.stat().st_size:
            found[name] = md5_of(path.read_bytes())
    return found


@pytest.fixture(scope="module")
def forest(ground: Path) -> Path:
    """Folders and files of several sizes, with times of their own."""
    root = ground / "forest"
    for folder in range(3):
        for number in range(12):
            size = (number * 7919) % 50_000 + 1
            path = root / f"d{folder}" / f"f{number}.dat"
            random_file(path, size, seed=folder * 100 + number)
            os.utime(path, ns=(10**18, 10**18 + number * 10**9))
    random_file(root / "large.bin", 9 << 20)
    return root


class TestPrograms:
    @pytest.mark.parametrize(
        "script",
        ["cp -a $1 copy", "rsync -a $1/ copy", "mkdir copy; tar c -C $1 . | tar x -C copy"],
        ids=["cp", "rsync", "tar"],
    )
    def test_tree_when_copied_into_the_mount_is_on_the_service(
        self, writable, place, forest, script
    ):
        """Every byte and every folder, and the times stay."""
        project, where = place
        sh(writable, where, script, str(forest))
        settled(writable)

        found = held(writable, project)
        assert local_tree(forest) == {
            p.removeprefix("copy/"): md5 for p, md5 in found.items() if p.startswith("copy/")
        }
        assert "" == sh(writable, where, "diff -r $1 copy", str(forest))
        assert str(forest / "d1/f3.dat") and "1000000003\n" == sh(
            writable, where, "stat -c %Y copy/d1/f3.dat"
        )

    def test_rsync_when_run_again_sends_nothing(self, writable, place, forest):
        """Sizes and times agree with what was copied, also after the upload."""
        _, where = place
        sh(writable, where, "rsync -a $1/ copy", str(forest))
        settled(writable)

        assert "" == sh(writable, where, "rsync -ai $1/ copy | grep '^>' || true", str(forest))

    def test_git_when_used_inside_the_mount_works(self, writable, place):
        """init, commit, gc, and the service has the work tree."""
        need("git")
        project, where = place
        sh(
            writable,
            where,
            """export GIT_CONFIG_GLOBAL=/dev/null HOME=/
            mkdir repo; cd repo; git init -q -b main .; git config user.name A; git config user.email a@example.org
            for n in 1 2 3; do echo $n > file; git add file; git commit -q -m $n; done
            git gc -q; git fsck --no-dangling; git log --oneline | wc -l; git status --porcelain""",
            timeout_s=120,
        )
        settled(writable)

        assert md5_of(b"3\n") == held(writable, project)["repo/file"]
        assert "3\n" == sh(writable, where, "cd repo; git log --oneline | wc -l")

    def test_sqlite_when_its_database_lies_in_the_mount_works(self, writable, place):
        """Locks, journal, reads and writes."""
        project, where = place
        code = """
import sqlite3
db = sqlite3.connect(argv[0])
db.execute('CREATE TABLE t (n INTEGER)')
for n in range(200):
    with db:
        db.execute('INSERT INTO t VALUES (?)', (n,))
print(db.execute('SELECT sum(n) FROM t').fetchone()[0], db.execute('PRAGMA integrity_check').fetchone()[0])
"""
        done = writable.python(code, writable.at(where, "data.db"), timeout_s=60)
        assert "19900 ok" == done.out.strip(), done.err
        settled(writable)

        assert "data.db" in held(writable, project)
        assert "data.db-journal" not in held(writable, project)

    def test_dd_when_it_seeks_writes_where_it_should(self, writable, place, tmp_path):
        """Holes, blocks in the middle, conv=notrunc: the same bytes as on an ordinary disk."""
        project, where = place
        script = """dd if=/dev/zero of=f bs=1000 count=3 seek=50 status=none
            printf middle | dd of=f bs=1 seek=12345 conv=notrunc status=none
            printf end | dd of=f bs=1 seek=60000 conv=notrunc status=none; md5sum < f"""
        expected = writable.run("sh", "-ec", script, cwd=str(tmp_path)).out
        assert expected == sh(writable, where, script)
        settled(writable)

        assert expected.split()[0] == held(writable, project)["f"]

    def test_shutil_move_when_it_comes_from_outside_moves(self, writable, place, tmp_path):
        """Across filesystems it is a copy with times and mode."""
        project, where = place
        (tmp_path / "src").mkdir()
        (tmp_path / "src" / "m.txt").write_text("moved\n")
        code = "import shutil; shutil.move(argv[0], argv[1])"
        assert "ok" == writable.errno(code, str(tmp_path / "src"), writable.at(where, "moved"))
        settled(writable)

        assert md5_of(b"moved\n") == held(writable, project)["moved/m.txt"]

    def test_pandas_when_it_writes_a_table_sends_it(self, writable, place):
        """to_csv, and the result is read back."""
        pytest.importorskip("pandas")
        project, where = place
        path = writable.at(where, "frame.csv")
        code = (
            "import sys, pandas; pandas.DataFrame({'a': [1, 2]}).to_csv(sys.argv[1], index=False)"
        )
        done = writable.run(sys.executable, "-c", code, path, timeout_s=60)
        assert done.status == 0, done.err
        settled(writable)

        assert md5_of(b"a\n1\n2\n") == held(writable, project)["frame.csv"]

    def test_writers_when_eight_work_at_once_do_not_disturb_each_other(self, writable, place):
        """Eight processes, each with files of its own and one that all append to."""
        project, where = place
        script = """for w in 1 2 3 4 5 6 7 8; do
              ( for n in 1 2 3 4 5; do echo $w-$n > w$w-$n.txt; echo $w-$n >> log.txt; done ) &
            done; wait; sort log.txt | md5sum"""
        lines = sorted(f"{w}-{n}\n" for w in range(1, 9) for n in range(1, 6))
        assert md5_of("".join(lines).encode()) == sh(writable, where, script).split()[0]
        settled(writable)

        found = held(writable, project)
        assert {
            f"{w}-{n}\n": md5_of(f"{w}-{n}\n".encode()) for w in range(1, 9) for n in range(1, 6)
        } == {f"{w}-{n}\n": found[f"w{w}-{n}.txt"] for w in range(1, 9) for n in range(1, 6)}

    def test_mmap_when_written_through_is_sent(self, writable, place):
        """Shared writable mappings."""
        project, where = place
        code = """
import mmap
with open(argv[0], 'r+b') as f:
    m = mmap.mmap(f.fileno(), 0)
    m[0:5] = b'FIRST'
    m.flush()
    m.close()
"""
        assert "ok" == writable.errno(code, writable.at(where, "folder", "a.txt"))
        settled(writable)

        assert md5_of(b"FIRST a\n") == held(writable, project)["folder/a.txt"]

    def test_file_when_removed_while_open_is_usable_to_the_end(self, writable, place):
        """Unlink of an open file; nothing of it is sent."""
        project, where = place
        code = """
f = open(argv[0], 'w+b'); f.write(b'x' * 100); f.flush()
os.unlink(argv[0]); f.seek(0); print(len(f.read()), os.fstat(f.fileno()).st_nlink)
"""
        done = writable.python(code, writable.at(where, "gone.bin"))
        assert "100 0" == done.out.strip(), done.err
        settled(writable)

        assert BEFORE == held(writable, project)


class TestStatus:
    def test_state_attribute_always_says_where_an_edit_is(self, writable, place):
        """`user.synapse.state` of what is unsent and of what was sent."""
        _, where = place
        code = "import os, sys; print(os.getxattr(sys.argv[1], 'user.synapse.state').decode())"
        ask = f'{sys.executable} -S -c "{code}" '
        assert 0 == writable.synd("pause").status
        sh(writable, where, "echo s > s.txt; echo s > s.txt.swp")
        assert "modified\nlocal\n" == sh(writable, where, f"{ask} s.txt; {ask} s.txt.swp")
        assert 0 == writable.synd("resume").status
        settled(writable)
        told = writable.synd("status", "--json")
        why = writable.why(writable.at(where, "s.txt"))

        assert "cached\n" == sh(writable, where, f"{ask} s.txt")
        assert json.loads(told.out)["safe_to_stop"] is True
        assert "all its bytes are here" in why["reason"]
        assert 2 == why["facts"]["cached_bytes"]


class TestClosing:
    def test_file_when_closed_after_fsync_does_not_wait_for_quiet(self, writable, place):
        """While it is open it is not sent until it is quiet; once it is closed there is nothing to wait for."""
        project, where = place
        code = """
import threading
with open(argv[0], 'wb') as f:
    f.write(b'whole'); f.flush(); os.fsync(f.fileno())
    # Longer than a closed file would wait.
    threading.Event().wait(1.5)
"""
        done = writable.python(code, writable.at(where, "synced.bin"))
        assert done.status == 0, done.err
        # Far less than `quiet_s`, which is 30 s.
        assert 0 == writable.synd("wait", "--timeout", "15").status
        assert md5_of(b"whole") == held(writable, project)["synced.bin"]


class TestLargeFiles:
    def test_large_file_when_changed_in_the_middle_is_not_waited_for(
        self, writable, ground, tmp_path
    ):
        """Only the blocks that a write touches are fetched before it is answered; the rest follows."""
        server = writable.remote
        random_file(tmp_path / "in" / "big.bin", 80 << 20, seed=7)
        project = server.seed(tmp_path / "in", f"Large {writable.transport}")
        writable.text("ls", writable.at("@id", project) + "/")
        path = writable.at("@id", project, "big.bin")
        code = """
with open(argv[0], 'r+b') as f:
    f.seek(40_000_000); f.write(b'changed'); f.seek(0, 2); f.write(b'the end')
    f.seek(39_999_990); print(f.read(30)[10:17], f.seek(0, 2))
"""
        done = writable.python(code, path, timeout_s=60)
        assert f"b'changed' {(80 << 20) + 7}" == done.out.strip(), done.err + writable.log()[-2000:]
        settled(writable)

        wanted = bytearray((tmp_path / "in" / "big.bin").read_bytes()) + b"the end"
        wanted[40_000_000:40_000_007] = b"changed"
        assert md5_of(bytes(wanted)) == held(writable, project)["big.bin"]
        assert md5_of(bytes(wanted)) == writable.md5(path)


class TestTakingBack:
    @pytest.mark.req("S3-25")
    @pytest.mark.req("S3-57")
    def test_removed_file_when_restored_is_back_on_both_sides(self, writable, place):
        """From the service's trash can, by its path."""
        project, where = place
        path = sh(writable, where, "readlink -f top.csv || pwd").strip()
        sh(writable, where, "rm top.csv")
        settled(writable)
        assert "top.csv" not in held(writable, project)
        done = writable.synd("restore", path)
        assert done.status == 0, done.err

        assert BEFORE["top.csv"] == held(writable, project)["top.csv"]

    @pytest.mark.parametrize("sent", [True, False], ids=["sent", "not sent yet"])
    def test_removed_folder_when_restored_is_back_with_all_in_it(self, writable, place, sent):
        """At once, whether or not its delete was sent meanwhile."""
        project, where = place
        path = sh(writable, where, "mkdir folder/in; echo x > folder/in/x; readlink -f folder")
        settled(writable)
        before = held(writable, project)
        if not sent:
            assert 0 == writable.synd("pause").status
        sh(writable, where, "rm -r folder")
        if sent:
            settled(writable)
            assert {"top.csv"} == set(held(writable, project))
        done = writable.synd("restore", path.strip())
        assert done.status == 0, done.err
        here = sh(writable, where, "cat folder/a.txt folder/in/x; ls folder")
        assert 0 == writable.synd("resume").status
        settled(writable)

        assert "first a\nx\na.txt\nb.txt\nin\n" == here
        assert before == held(writable, project)

    def test_edit_when_discarded_is_gone_and_can_be_restored(self, writable, place):
        """The bytes go to the recovery area, and come back from there."""
        project, where = place
        path = sh(writable, where, "readlink -f top.csv").strip()
        assert 0 == writable.synd("pause").status
        sh(writable, where, "echo edited > top.csv")
        done = writable.synd("discard", "--yes", path)
        assert done.status == 0, done.err
        assert "x,y\n1,2\n" == sh(writable, where, "cat top.csv")
        done = writable.synd("restore", path)
        assert done.status == 0, done.err
        assert "edited\n" == sh(writable, where, "cat top.csv")
        assert 0 == writable.synd("resume").status
        settled(writable)

        assert md5_of(b"edited\n") == held(writable, project)["top.csv"]


class TestOthers:
    @pytest.mark.parametrize("what", ["new version", "renamed", "deleted"])
    def test_file_that_was_saved_and_is_read_all_the_time_follows_the_service(
        self, writable, place, what
    ):
        """What others do to it is seen, though nobody lets its bytes rest."""
        server = writable.remote
        project, where = place
        sh(writable, where, "echo ours > new.txt; ls folder")
        settled(writable)
        entity = server.tree(project)["new.txt"].id
        assert "ours\n" == sh(writable, where, "cat new.txt")
        if what == "new version":
            server.new_version(entity, b"theirs\n")
        elif what == "renamed":
            server.change(entity, name="other.txt")
        else:
            server.delete(entity)

        wanted = {"new version": "theirs\n", "renamed": "gone\nours\n", "deleted": "gone\ngone\n"}
        script = "cat new.txt || echo gone; test -e new.txt || cat other.txt || echo gone"
        eventually(
            lambda: sh(writable, where, script) == wanted[what],
            timeout_s=20,
            what=what,
        )

    def test_mapping_when_it_has_ended_does_not_keep_frequent_readers_on_our_version(
        self, writable, place
    ):
        """An edit stays while somebody may write to it through memory; that this is over is seen, too."""
        server = writable.remote
        project, where = place
        code = """
import ctypes, time
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
fd = os.open(argv[0], os.O_RDWR)
os.pwrite(fd, b'ours!', 0)
assert libc.mmap(None, ctypes.c_size_t(5), 3, 1, fd, ctypes.c_long(0)) not in (None, 2 ** 64 - 1)
os.close(fd)
open(argv[1], 'w').close()
while os.path.exists(argv[1]):
    time.sleep(0.05)
"""
        flag = writable.root / f"mapped {writable.transport}"
        mapper = writable.begin(
            sys.executable, "-S", "-c", f"import os, sys\nargv = sys.argv[1:]\n{code}",
            writable.at(where, "folder", "a.txt"), str(flag),
        )  # fmt: skip
        eventually(flag.exists)
        settled(writable)
        server.new_version(server.tree(project)["folder/a.txt"].id, b"theirs\n")
        for _ in range(30):
            sh(writable, where, "cat folder/a.txt; sleep 0.1")
        flag.unlink()
        assert mapper.wait(20).status == 0

        eventually(
            lambda: "theirs\n" == sh(writable, where, "cat folder/a.txt; sleep 0.1"), timeout_s=20
        )
