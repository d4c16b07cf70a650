"""What the CLI knows of mounts without touching them."""

import os
import subprocess
import sys

import pytest

from synd.cli import mounts
from tests.support.daemons import until

MOUNTINFO = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
40 22 0:35 / /mnt/my\\040data rw,nosuid,nodev - fuse.synd synd rw,user_id=0
41 22 0:36 / /mnt/other rw shared:3 master:2 - fuse.rclone remote: rw
42 22 0:37 / /mnt/my\\040data rw - fuse.synd synd rw
broken line
"""


def test_all_mounts_when_lines_are_of_all_sorts_reads_them():
    """Escapes undone, optional fields skipped, broken lines left out."""
    found = mounts.all_mounts(MOUNTINFO)

    assert [(m.path, m.fstype, m.connection) for m in found] == [
        ("/", "ext4", "1"),
        ("/mnt/my data", "fuse.synd", "35"),
        ("/mnt/other", "fuse.rclone", "36"),
        ("/mnt/my data", "fuse.synd", "37"),
    ]


class TestResolve:
    def test_resolve_when_there_are_links_follows_them(self, tmp_path):
        """As realpath does, where no mount is near."""
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to("real")
        (tmp_path / "up").symlink_to("link/../real/x")

        assert mounts.resolve(tmp_path / "link" / "a") == f"{tmp_path.resolve()}/real/a"
        assert mounts.resolve(tmp_path / "up") == f"{tmp_path.resolve()}/real/x"

    def test_resolve_when_a_mount_is_on_the_way_stops_there(self, tmp_path, monkeypatch):
        """Below a mount only the daemon knows; asking the kernel could wait for ever."""
        inside = tmp_path.resolve() / "mnt"
        inside.mkdir()
        (inside / "link").symlink_to("/elsewhere")
        mount = mounts.MountPoint(str(inside), "0:1", mounts.FSTYPE, "")
        monkeypatch.setattr(mounts, "all_mounts", lambda: [mount])
        (tmp_path / "short").symlink_to("mnt")

        assert mounts.resolve(tmp_path / "short" / "link" / "a") == f"{inside}/link/a"
        assert mounts.resolve(inside / "a" / ".." / "b") == f"{inside}/b"

    def test_resolve_when_links_go_round_gives_up(self, tmp_path):
        """ELOOP, not an endless walk."""
        (tmp_path / "a").symlink_to("b")
        (tmp_path / "b").symlink_to("a")
        with pytest.raises(mounts.SyndError, match="symbolic links"):
            mounts.resolve(tmp_path / "a")

    def test_resolve_when_relative_starts_here(self, tmp_path, monkeypatch):
        """And `~` is home."""
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", str(tmp_path))

        assert mounts.resolve("a/../b") == f"{tmp_path.resolve()}/b"
        assert mounts.resolve("~/c") == f"{tmp_path.resolve()}/c"


class TestAnswers:
    def test_answers_when_the_folder_is_there_is_true(self, tmp_path):
        """An ordinary stat."""
        assert mounts.answers(str(tmp_path), 10)
        assert not mounts.answers(str(tmp_path / "none"), 10)

    def test_answers_when_nobody_answers_comes_back(self, tmp_path, monkeypatch):
        """The child is left behind, the caller is not."""
        slow = tmp_path / "python"
        slow.write_text("#!/bin/sh\nexec sleep 20\n")
        slow.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(slow))

        assert not mounts.answers(str(tmp_path), 0.2)


class TestUsers:
    @pytest.mark.parametrize("how", ["cwd", "open file", "mapped file"])
    def test_users_when_a_process_is_inside_names_it_and_how(self, tmp_path, how):
        """Whoever holds a mount busy can be found and ended."""
        file = tmp_path / "f"
        file.write_bytes(b"x" * 4096)
        code = {
            "cwd": f"os.chdir({str(tmp_path)!r})",
            "open file": f"f = open({str(file)!r})",
            "mapped file": f"f = open({str(file)!r}); m = mmap.mmap(f.fileno(), 0, prot=1); f.close()",
        }[how]
        child = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import mmap, os, sys; {code}; print(1, flush=True); sys.stdin.read()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            child.stdout.readline()
            found = mounts.users(str(tmp_path))

            assert [u.pid for u in found] == [child.pid]
            assert found[0].how.startswith(("open file", "mapped file") if "file" in how else how)
            assert str(child.pid) in str(mounts.busy(str(tmp_path)))
        finally:
            child.communicate()

    def test_users_when_nobody_is_inside_is_empty(self, tmp_path):
        """A folder whose name begins alike is another folder."""
        (tmp_path / "ab").mkdir()
        here = os.getcwd()
        os.chdir(tmp_path / "ab")
        try:
            assert mounts.users(str(tmp_path / "a")) == []
        finally:
            os.chdir(here)


def test_until_when_true_returns():
    """The helper ends at once when there is nothing to wait for."""
    until(lambda: True)
