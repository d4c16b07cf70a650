"""The systemd units: valid, and hardened only by what does not break a mount."""

import os
import re
import shutil
import subprocess

import pytest

from tests.support.source import ROOT

UNITS = sorted((ROOT / "systemd").glob("*.service"))

PRIVATE_NAMESPACE = [
    "ProtectSystem",
    "ProtectHome",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateMounts",
    "PrivateIPC",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "TemporaryFileSystem",
    "BindPaths",
    "BindReadOnlyPaths",
    "RootDirectory",
    "RootImage",
    "MountImages",
    "ExtensionImages",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ProtectProc",
    "ProcSubset",
    "ProtectHostname",
    "ProtectClock",
    "MountFlags",
    "DynamicUser",
    "LogNamespace",
    "PrivateUsers",
    "PrivateNetwork",
]
"""Each gives the service its own mount namespace, or closes /dev/fuse."""

NO_SETUID = [
    "NoNewPrivileges",
    "SystemCallFilter",
    "SystemCallArchitectures",
    "RestrictNamespaces",
    "RestrictAddressFamilies",
    "RestrictSUIDSGID",
    "RestrictRealtime",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "RestrictFileSystems",
]
"""Each is or implies NoNewPrivileges for an unprivileged service: fusermount3 could not mount."""


def settings(path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda p: p.name)
class TestEveryUnit:
    def test_unit_never_hides_the_mount(self, unit):
        """A mount made in a private namespace is seen by nobody else."""
        assert not set(settings(unit)) & set(PRIVATE_NAMESPACE)

    def test_unit_never_takes_setuid_away(self, unit):
        """Users mount through fusermount3, which is setuid root."""
        assert not set(settings(unit)) & set(NO_SETUID)

    def test_unit_always_keeps_the_mount_over_a_crash(self, unit):
        """Notify, watchdog, descriptor store, restart; but not where a restart cannot mend it."""
        s = settings(unit)

        assert s["Type"] == ["notify"]
        assert s["NotifyAccess"] == ["main"]
        assert int(s["FileDescriptorStoreMax"][0]) >= 1
        assert "WatchdogSec" in s
        assert s["Restart"] == ["on-failure"]
        assert set(s["RestartPreventExitStatus"][0].split()) >= {"77", "78"}

    def test_unit_always_leaves_time_for_the_drain(self, unit):
        """The manager is more patient than the daemon."""
        from syndd.lifecycle import DRAIN_S, UNWIND_S

        assert float(settings(unit)["TimeoutStopSec"][0]) > DRAIN_S + 3 * UNWIND_S

    @pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="no systemd-analyze")
    def test_unit_always_is_accepted_by_systemd(self, unit, tmp_path):
        """Verified, with a program that exists on this machine in the place of ours."""
        name = unit.name.replace("@.", "@someone.")
        text = re.sub(
            r"^ExecStart=\S+", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE
        )
        (tmp_path / name).write_text(text)
        own = [] if "@" in unit.name else ["--user"]
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", *own, str(tmp_path / name)],
            env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
        )

        assert done.returncode == 0, done.stderr
        assert "ignoring" not in done.stderr
