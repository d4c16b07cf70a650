"""systemd as the keeper of a descriptor; the holder is tested with real mounts in tests/fuse."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from synd.errors import DaemonNotRunning
from syndd.mount.fdstore import HolderStore, SystemdStore


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(5)
        yield sock


def test_put_sends_descriptor_and_name(manager: socket.socket, tmp_path: Path) -> None:
    """FDSTORE=1 with FDNAME and the descriptor, after the earlier one of that name was removed."""
    store = SystemdStore(tmp_path, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
    with (tmp_path / "file").open("w") as file:
        store.put("mount", file.fileno(), {"minor": 45})

        first, _, _, _ = socket.recv_fds(manager, 4096, 1)
        second, fds, _, _ = socket.recv_fds(manager, 4096, 1)

        assert first == b"FDSTOREREMOVE=1\nFDNAME=mount"
        assert second == b"FDSTORE=1\nFDNAME=mount"
        assert os.path.sameopenfile(fds[0], file.fileno())
    os.close(fds[0])
    assert (tmp_path / "fd-mount.json").stat().st_mode & 0o777 == 0o600


def test_take_gives_back_what_systemd_passed(manager: socket.socket, tmp_path: Path) -> None:
    """The next daemon finds the descriptor by its name, with the state of the one before."""
    address = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
    with (tmp_path / "file").open("w") as file:
        SystemdStore(tmp_path, address).put("mount", file.fileno(), {"minor": 45})
    code = (
        "import os, sys, pathlib; from syndd.mount.fdstore import SystemdStore\n"
        "store = SystemdStore(pathlib.Path(sys.argv[1])); kept = store.take('mount')\n"
        "print(kept.state, os.readlink(f'/proc/self/fd/{kept.fd}'), store.take('other'))\n"
        "store.drop('mount'); print(store.take('mount'))"
    )
    # The manager's way: descriptors from 3 on, and the pid of the process that they are for.
    ran = subprocess.run(
        [
            *("sh", "-c", 'exec 3<"$1"; LISTEN_PID=$$ exec "$2" -c "$3" "$4"', "sh"),
            *(str(tmp_path / "file"), sys.executable, code, str(tmp_path)),
        ],
        env=os.environ | address | {"LISTEN_FDS": "1", "LISTEN_FDNAMES": "mount"},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )

    assert ran.stdout.splitlines() == [f"{{'minor': 45}} {tmp_path / 'file'} None", "None"]


def test_descriptors_for_another_process_are_not_ours(tmp_path: Path) -> None:
    """LISTEN_PID decides."""
    store = SystemdStore(
        tmp_path, {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "mount"}
    )

    assert (store.take("mount"), store.usable) == (None, False)


def test_missing_holder_is_told(tmp_path: Path) -> None:
    """No socket, no holder: an error that says so at once."""
    with pytest.raises(DaemonNotRunning, match="no mount holder"):
        HolderStore(tmp_path / "hold.sock").take("mount")
