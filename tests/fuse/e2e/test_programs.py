"""Programs that users run, on a real mount over a real registry: what they read is what was stored."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.fuse.e2e.conftest import (
    DEPTH,
    HUGE_BYTES,
    LONG,
    MANY,
    SIGNAL_BYTES,
    VERSIONS,
    Shown,
)
from tests.support.world import World

pytestmark = [pytest.mark.fuse, pytest.mark.timeout(120)]


def need(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


def files_of(root: Path) -> dict[str, Path]:
    """Relative path → file."""
    return {str(p.relative_to(root)): p for p in sorted(root.rglob("*")) if p.is_file()}


def md5_of(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def missing_sizes(mounted: World, folder: str) -> None:
    """Waits until no file below shows the size of one that is still being asked for."""
    mounted.synd("ls", "--long", folder)


@pytest.fixture(params=["mounted", "portable"])
def either(request: pytest.FixtureRequest) -> World:
    """Each test that takes it runs over both transports."""
    found: World = request.getfixturevalue(request.param)
    return found


class TestWholeTrees:
    def test_find_always_shows_every_name(self, either: World, source: Path) -> None:
        """`find` shows each file, folder and nothing else."""
        shown = either.text("find", either.at("Tree"), "-printf", "%y %P\n").splitlines()

        expected = {
            f"{'d' if p.is_dir() else 'f'} {p.relative_to(source)}" for p in source.rglob("*")
        }
        assert expected | {"d "} == set(shown)
        assert len(shown) == len(expected) + 1

    def test_cp_always_copies_every_byte(self, either: World, source: Path, tmp_path: Path) -> None:
        """`cp -r` of a project equals the folder it was seeded from."""
        either.text("cp", "-r", either.at("Tree"), str(tmp_path / "copy"))

        assert either.run("diff", "-r", str(source), str(tmp_path / "copy")).out == ""

    def test_diff_always_finds_no_difference(self, mounted: World, source: Path) -> None:
        """`diff -r` reads both trees through the same calls and finds them equal."""
        done = mounted.run("diff", "-r", str(source), mounted.at("Tree"))

        assert (0, "") == (done.status, done.out + done.err)

    def test_tar_always_packs_every_byte(
        self, mounted: World, source: Path, tmp_path: Path
    ) -> None:
        """`tar c` meets no file that "changed as we read it" and no short one."""
        done = mounted.run("tar", "cf", str(tmp_path / "all.tar"), "-C", str(mounted.mount), "Tree")
        (tmp_path / "out").mkdir()
        mounted.text("tar", "xf", str(tmp_path / "all.tar"), "-C", str(tmp_path / "out"))

        assert (0, "") == (done.status, done.err)
        assert mounted.run("diff", "-r", str(source), str(tmp_path / "out/Tree")).out == ""

    def test_rsync_when_run_twice_copies_once(
        self, mounted: World, source: Path, tmp_path: Path
    ) -> None:
        """`rsync -a` copies all, and finds nothing to do the second time: sizes and times hold."""
        need("rsync")
        there, here = mounted.at("Tree") + "/", str(tmp_path / "copy") + "/"
        mounted.text("rsync", "-a", there, here)
        again = mounted.text("rsync", "-ai", there, here)

        assert again == ""
        assert mounted.run("diff", "-r", str(source), here).out == ""

    def test_grep_always_finds_the_needle(self, mounted: World) -> None:
        """`grep -r` reads all small files and names the one line."""
        found = mounted.text("grep", "-rn", "needle in", mounted.at("Tree", "many"))

        assert f"{mounted.at('Tree', 'many', 'needle.txt')}:3:needle in the hay\n" == found

    def test_md5sum_always_agrees_with_the_source(self, either: World, source: Path) -> None:
        """Every file's md5, read by a program, is that of its source."""
        paths = files_of(source)
        listed = either.text(
            "sh",
            "-c",
            'cd "$1" && find . -type f -print0 | xargs -0 md5sum',
            "sh",
            either.at("Tree"),
        )
        seen = {line[34:].removeprefix("./"): line[:32] for line in listed.splitlines()}

        assert {name: md5_of(path) for name, path in paths.items()} == seen

    def test_du_always_counts_what_is_stored(self, mounted: World, source: Path) -> None:
        """`du` shows the sum of the files' sizes."""
        missing_sizes(mounted, mounted.at("Tree"))
        expected = sum(p.stat().st_size for p in files_of(source).values())
        told = mounted.text("du", "-s", "-B1", "--apparent-size", mounted.at("Tree"))

        assert expected == int(told.split()[0])

    def test_ls_always_shows_sizes_and_times(self, mounted: World, source: Path) -> None:
        """`ls -lR` shows the size of every file, and a time of change that does not move."""
        first = mounted.text("ls", "-lR", "--full-time", mounted.at("Tree"))
        second = mounted.text("ls", "-lR", "--full-time", mounted.at("Tree"))

        assert first == second
        for name, path in files_of(source / "many").items():
            sized = [w for w in first.splitlines() if w.endswith(" " + Path(name).name)]
            assert any(line.split()[4] == str(path.stat().st_size) for line in sized), name


class TestOneFile:
    def test_dd_when_seeking_reads_that_place(self, either: World, source: Path) -> None:
        """Reads at any offset give the bytes of that offset, and none past the end."""
        data = (source / "large/signal.bin").read_bytes()
        path = either.at("Tree", "large/signal.bin")
        for block, skip in ((4096, 0), (4096, 777), (512, 16001), (65536, 127), (1 << 20, 7)):
            done = either.run(
                "sh",
                "-c",
                f'dd if="$1" bs={block} skip={skip} count=1 status=none | md5sum',
                "sh",
                path,
            )
            wanted = data[block * skip : block * (skip + 1)]
            assert hashlib.md5(wanted, usedforsecurity=False).hexdigest() == done.out.split()[0]
        assert "0+0 records in" in either.run("dd", f"if={path}", "bs=1M", "skip=8").err

    def test_mmap_always_shows_the_bytes(self, either: World, source: Path) -> None:
        """A mapped file shows its bytes, wherever it is touched first."""
        data = (source / "large/signal.bin").read_bytes()
        places = (SIGNAL_BYTES - 1, 0, 5_000_000, 4096, SIGNAL_BYTES // 2)
        told = either.python(
            "import mmap\n"
            "with open(argv[0], 'rb') as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as m:\n"
            "    print(*(m[int(at)] for at in argv[1:]))",
            either.at("Tree", "large/signal.bin"),
            *map(str, places),
        )

        assert [data[at] for at in places] == [int(n) for n in told.out.split()]

    def test_reading_when_eight_programs_read_gives_all_the_same(
        self, mounted: World, source: Path
    ) -> None:
        """Eight readers of one file at once all get its bytes."""
        programs = [
            mounted.begin("md5sum", mounted.at("Tree", "large/signal.bin")) for _ in range(8)
        ]
        sums = {p.wait(60).out.split()[0] for p in programs}

        assert {md5_of(source / "large/signal.bin")} == sums

    def test_empty_file_always_reads_as_empty(self, either: World) -> None:
        """A file of 0 bytes has size 0 and ends at once."""
        assert either.text("wc", "-c", either.at("Extremes", "zero.bin")).split()[0] == "0"
        assert either.text("cat", either.at("Tree", "empty.txt")) == ""

    def test_huge_file_when_read_at_both_ends_moves_little(
        self, mounted: World, shown: Shown
    ) -> None:
        """The ends of a 5 GiB file are read without the middle: not in bytes, not on the disk."""
        shown.remote.forget_requests()
        path = mounted.at("Extremes", "huge.bin")
        told = mounted.python(
            "fd = os.open(argv[0], os.O_RDONLY)\n"
            "size = os.fstat(fd).st_size\n"
            "head, tail = os.pread(fd, 65536, 0), os.pread(fd, 65536, size - 65536)\n"
            "print(size, head == b'head' * 16384, tail == b'tail' * 16384)",
            path,
        )

        assert [str(HUGE_BYTES), "True", "True"] == told.out.split()
        assert shown.remote.asked().bytes_sent < 4 << 20

    def test_pandas_reads_a_table(self, mounted: World) -> None:
        """`pandas.read_csv` reads a file of the mount."""
        code = "import pandas, sys; f = pandas.read_csv(sys.argv[1]); print(len(f), *f.columns)"
        path = mounted.at("Tree", "results/summary.csv")
        rows = len(mounted.text("cat", path).splitlines()) - 1

        assert f"{rows} tissue specimens\n" == mounted.text(sys.executable, "-c", code, path)


class TestTools:
    def test_samtools_when_asked_for_a_region_finds_its_reads(
        self, either: World, source: Path
    ) -> None:
        """`samtools view` of a region goes through the index beside the file."""
        need("samtools")
        bam = "alignments/reads.bam"
        header = either.text("samtools", "view", "-H", str(source / bam))
        contig = next(w[3:] for w in header.split() if w.startswith("SN:"))
        region = f"{contig}:1-100000"
        expected = either.text("samtools", "view", str(source / bam), region)

        assert expected
        assert expected == either.text("samtools", "view", either.at("Tree", bam), region)

    def test_tabix_when_asked_for_a_region_finds_its_records(
        self, either: World, source: Path
    ) -> None:
        """`tabix` reads a region of a compressed, indexed VCF."""
        need("tabix")
        calls = "variants/calls.vcf.gz"
        contig = either.text("tabix", "-l", str(source / calls)).splitlines()[0]
        expected = either.text("tabix", str(source / calls), contig)

        assert expected
        assert expected == either.text("tabix", either.at("Tree", calls), contig)

    def test_git_when_a_repository_is_checked_in_reads_it(
        self, mounted: World, source: Path, tmp_path: Path
    ) -> None:
        """`git` reads the log, old commits and the state of a repository on a read-only mount."""
        need("git")
        # Its own: git may write the index of what it only looks at, and other tests compare the source.
        shutil.copytree(source / "repo", tmp_path / "repo")
        env = {
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "safe.directory",
            "GIT_CONFIG_VALUE_0": "*",
        }

        def git(root: str, *words: str) -> str:
            done = mounted.run("git", "-C", root, *words, env=env)
            assert done.status == 0, done.err
            return done.out

        for words in (
            ("log", "--oneline"),
            ("show", "HEAD~1:analysis.py"),
            ("diff", "HEAD~2", "--stat"),
            ("status", "--porcelain"),
            ("fsck", "--no-dangling"),
        ):
            assert git(str(tmp_path / "repo"), *words) == git(mounted.at("Tree", "repo"), *words)


class TestLinks:
    def test_link_when_it_leads_to_another_project_is_a_relative_symlink(
        self, either: World
    ) -> None:
        """A link is a relative symlink that leads to the entity's own place."""
        path = either.at("Links", "inside", "to other project")

        assert either.text("readlink", path).startswith("../../")
        assert either.at("Other/folder/target.txt") + "\n" == either.text("readlink", "-f", path)
        assert either.text("cat", path) == "two\n"

    def test_link_when_it_names_a_version_leads_to_that_version(self, mounted: World) -> None:
        """A link to a version shows that version's bytes, for ever."""
        assert mounted.text("cat", mounted.at("Links", "inside", "to first version")) == "one\n"

    def test_link_when_it_leads_to_a_folder_can_be_walked_through(self, mounted: World) -> None:
        """A link to a folder lists it."""
        assert "target.txt\n" == mounted.text(
            "ls", mounted.at("Links", "inside", "to folder") + "/"
        )

    def test_link_when_its_target_is_gone_is_a_broken_symlink(self, either: World) -> None:
        """A broken link can be listed and read as a link; opening it says ENOENT."""
        path = either.at("Links", "inside", "broken")

        assert either.text("readlink", path).startswith("../../@id/syn")
        assert either.read_error(path) == "ENOENT"
        assert "broken" in either.text("ls", "-l", either.at("Links", "inside"))


class TestOwnNames:
    def test_by_id_always_leads_to_the_entity(self, either: World, shown: Shown) -> None:
        """`@id/syn…` is the entity by its id, a version by `syn….N`."""
        target = shown.entities["target"]

        assert either.text("cat", either.at("@id", target)) == "two\n"
        assert either.text("cat", either.at("@id", f"{target}.1")) == "one\n"
        assert either.read_error(either.at("@id", "syn999999999")) == "ENOENT"

    def test_by_id_when_the_project_is_not_configured_reaches_it(
        self, mounted: World, shown: Shown
    ) -> None:
        """A folder can be walked from `@id`, whatever the mount shows at its top."""
        project = shown.projects["Other"]

        assert "folder\n" == mounted.text("ls", mounted.at("@id", project) + "/")
        assert "target.txt\n" == mounted.text("ls", mounted.at("@id", project, "folder"))

    def test_version_when_named_by_at_shows_old_bytes(self, either: World) -> None:
        """`FILE@1` is version 1; a version that never was is missing."""
        assert either.text("cat", either.at("Other/folder/target.txt@1")) == "one\n"
        assert either.text("cat", either.at("Other/folder/target.txt@2")) == "two\n"
        assert either.read_error(either.at("Other/folder/target.txt@3")) == "ENOENT"

    def test_versions_always_lists_them(self, either: World) -> None:
        """`@versions/FILE` is a folder of the versions, each with its size."""
        folder = either.at("Other/folder/@versions/target.txt")

        assert "1\n2\n" == either.text("ls", folder)
        assert either.text("cat", folder + "/1") == "one\n"

    def test_versions_when_there_are_fifteen_thousand_shows_them_all(self, mounted: World) -> None:
        """A file with 15 000 versions lists them all, and any of them can be read by number."""
        folder = mounted.at("Extremes/@versions/versioned.txt")
        names = mounted.text("ls", folder, timeout_s=60).split()

        assert {str(n) for n in range(1, VERSIONS + 1)} == set(names)
        assert mounted.text("cat", folder + f"/{VERSIONS}") == f"version {VERSIONS}\n"
        assert mounted.text("cat", mounted.at("Extremes/versioned.txt@1")) == "version 1\n"

    def test_info_always_is_json_about_the_entity(self, either: World, shown: Shown) -> None:
        """`@info/NAME.json` tells id, version and md5; it lists one file per entry."""
        folder = either.at("Other/folder/@info")
        told = either.python(
            "import json\nd = json.load(open(argv[0]))\nprint(d['id'], d['version'], d['file']['md5'])",
            folder + "/target.txt.json",
        )

        assert "target.txt.json\n" == either.text("ls", folder)
        assert [
            shown.entities["target"],
            "2",
            hashlib.md5(b"two\n").hexdigest(),
        ] == told.out.split()

    def test_xattrs_always_tell_id_version_and_md5(self, either: World, shown: Shown) -> None:
        """`user.synapse.*` tells what an entity is; an attribute that is not there is ENODATA."""
        path = either.at("Other/folder/target.txt")
        told = either.python(
            "for n in ('id', 'version', 'md5'):\n"
            "    print(os.getxattr(argv[0], 'user.synapse.' + n).decode())\n"
            "print('user.synapse.etag' in os.listxattr(argv[0]))",
            path,
        )

        expected = [shown.entities["target"], "2", hashlib.md5(b"two\n").hexdigest(), "True"]
        assert expected == told.out.split()
        assert either.errno("os.getxattr(argv[0], 'user.none')", path) == "ENODATA"


class TestExtremes:
    def test_names_when_a_file_system_cannot_hold_them_are_mapped(self, either: World) -> None:
        """Each name has a file name of its own, whose content is that entity's."""
        listed = either.python(
            "for n in sorted(os.listdir(argv[0])):\n"
            "    p = os.path.join(argv[0], n)\n"
            "    if n.endswith('.csv'): continue\n"
            "    print(repr(n), '<-', open(p).read().strip())",
            either.at("Names"),
        ).out
        pairs = dict(line.split(" <- I am ") for line in listed.splitlines())
        back = {name: eval(shown) for shown, name in pairs.items()}

        for plain in ("it's", "dots..", "a b", "-rf", "100+ (x), y", "..."):
            assert plain == back[plain]
        assert ("%2E", "%2E%2E") == (back["."], back[".."])
        assert len(os.fsencode(back[LONG])) <= 255
        assert back[LONG].startswith("nnn")

    def test_names_when_a_table_and_a_file_clash_shows_both(self, either: World) -> None:
        """A table `TABLE`, shown as TABLE.csv, does not hide the file TABLE.csv, nor it the table."""
        names = [
            n for n in either.text("ls", either.at("Names")).splitlines() if n.endswith(".csv")
        ]

        assert len(names) == 2
        assert "TABLE.csv" in names
        contents = [either.run("cat", either.at("Names", n)).out for n in names]
        assert "I am a file\n" in contents

    def test_folder_when_it_has_ten_thousand_entries_lists_them(self, either: World) -> None:
        """Each name once, none missing."""
        names = either.text("ls", "-U", either.at("Many"), timeout_s=60).split()

        assert {f"f{n:07}.bin" for n in range(MANY)} == set(names)
        assert len(names) == MANY

    def test_folder_when_deep_can_be_walked_to_the_bottom(self, either: World) -> None:
        """As deep as the service allows."""
        path = either.at("Extremes", *(f"d{n}" for n in range(DEPTH)), "bottom.txt")

        assert either.text("cat", path) == "bottom\n"


class TestReadOnly:
    CALLS = (
        "open(p + '/needle.txt', 'w')",
        "open(p + '/needle.txt', 'a')",
        "open(p + '/needle.txt', 'r+')",
        "open(p + '/new', 'x')",
        "os.mkdir(p + '/new')",
        "os.unlink(p + '/needle.txt')",
        "os.rmdir(p + '/a')",
        "os.rename(p + '/needle.txt', p + '/other')",
        "os.rename(p + '/needle.txt', p + '/a/part-000.dat')",
        "os.symlink('x', p + '/new')",
        "os.link(p + '/needle.txt', p + '/new')",
        "os.mkfifo(p + '/new')",
        "os.truncate(p + '/needle.txt', 0)",
        "os.chmod(p + '/needle.txt', 0o777)",
        "os.chown(p + '/needle.txt', 1, 1)",
        "os.utime(p + '/needle.txt')",
        "os.setxattr(p + '/needle.txt', 'user.synapse.x', b'1')",
        "os.removexattr(p + '/needle.txt', 'user.synapse.id')",
    )

    def test_change_always_is_refused_as_read_only(self, either: World, source: Path) -> None:
        """Every call that would change something says EROFS, and changes nothing."""
        told = either.python(
            "p = argv[0]\n"
            "for call in argv[1:]:\n"
            "    try:\n"
            "        exec(call)\n"
            "        print('done')\n"
            "    except OSError as error:\n"
            "        print(errno.errorcode[error.errno])",
            either.at("Tree", "many"),
            *self.CALLS,
        )

        assert dict.fromkeys(self.CALLS, "EROFS") == dict(
            zip(self.CALLS, told.out.split(), strict=True)
        )
        assert (source / "many/needle.txt").read_text() == either.text(
            "cat", either.at("Tree/many/needle.txt")
        )


class TestUsers:
    def test_other_user_when_not_allowed_gets_eacces(self, mounted: World, ground: Path) -> None:
        """Without --allow-other only the owner may enter: others get EACCES, not a hang."""
        need("setpriv")
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        assert "kernel" in mounted.text(*nobody, "ls", str(ground))

        done = mounted.run(*nobody, "ls", str(mounted.mount), timeout_s=10)

        assert done.status != 0
        assert "Permission denied" in done.err
