"""The doctor's checks, one by one, on machines that are made up."""

import dataclasses

import pytest

from synd.cli import doctor
from synd.config import Config, folders


@pytest.fixture
def machine(tmp_path):
    found = folders({"SYND_HOME": str(tmp_path / "home")})
    conf = tmp_path / "fuse.conf"
    conf.write_text("# user_allow_other\n")
    watches = tmp_path / "watches"
    watches.write_text("1000000\n")
    device = tmp_path / "fuse"
    device.touch()
    return doctor.Machine(
        Config(endpoint="http://127.0.0.1:9"), found, str(tmp_path / "mnt"), device, conf, watches
    )


def verdicts(check, machine) -> list[str]:
    return [f.verdict for f in doctor.run_check("x", check, machine)]


def test_finding_when_not_ok_always_says_how_to_mend_it(machine):
    """A complaint without a mend is no help."""
    for name, check in doctor.CHECKS.items():
        for finding in doctor.run_check(name, check, machine):
            assert finding.saw
            assert finding.verdict == doctor.OK or finding.mend, finding


def test_fuse_when_the_device_is_missing_fails(machine, tmp_path):
    """Nothing works without it."""
    assert verdicts(doctor.check_fuse, machine) == ["ok"]
    gone = dataclasses.replace(machine, device=tmp_path / "none")
    assert verdicts(doctor.check_fuse, gone) == ["fail"]


def test_allow_other_when_wanted_by_a_user_needs_fuse_conf(machine, monkeypatch):
    """A commented line does not count."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    wanted = dataclasses.replace(machine, config=Config(allow_other=True))

    assert verdicts(doctor.check_allow_other, wanted) == ["fail"]
    assert verdicts(doctor.check_allow_other, machine) == ["ok"]
    machine.fuse_conf.write_text("user_allow_other\n")
    assert verdicts(doctor.check_allow_other, wanted) == ["ok"]


def test_folders_when_open_to_others_warns(machine):
    """Cached files may be controlled data."""
    machine.folders.cache.mkdir(parents=True)
    machine.folders.cache.chmod(0o755)

    assert "warn" in verdicts(doctor.check_folders, machine)


def test_mount_point_when_not_empty_or_no_folder_fails(machine, tmp_path):
    """A mount would hide what is in it."""
    assert verdicts(doctor.check_mount_point, machine) == ["ok"]
    (tmp_path / "mnt").mkdir()
    (tmp_path / "mnt" / "x").touch()
    assert verdicts(doctor.check_mount_point, machine) == ["fail"]
    file = dataclasses.replace(machine, mount=str(tmp_path / "mnt" / "x"))
    assert verdicts(doctor.check_mount_point, file) == ["fail"]


def test_inotify_when_few_watches_warns(machine):
    """With the exact line that mends it."""
    machine.inotify.write_text("8192\n")
    [finding] = doctor.check_inotify(machine)

    assert finding.verdict == "warn"
    assert "sysctl fs.inotify.max_user_watches=" in finding.mend


def test_disk_when_the_reserve_is_touched_fails(machine):
    """Nothing could be cached."""
    full = dataclasses.replace(machine, config=Config(cache_keep_free_bytes=1 << 60))

    assert verdicts(doctor.check_disk, full) == ["fail"]


@pytest.mark.parametrize(
    ("release", "verdict"), [("6.8.0-generic", "warn"), ("5.15.0", "warn"), ("6.9.1", "ok")]
)
def test_passthrough_when_the_kernel_is_old_warns(machine, monkeypatch, release, verdict):
    """It works, but less well."""
    monkeypatch.setattr("platform.release", lambda: release)
    monkeypatch.setattr(doctor, "_has_sys_admin", lambda: True)

    assert verdicts(doctor.check_passthrough, machine) == [verdict]


def test_service_when_nobody_listens_warns(machine):
    """Offline is no fault of this machine: cached files stay readable."""
    assert verdicts(doctor.check_service, machine) == ["warn"]


def test_credentials_when_there_is_no_token_warns(machine):
    """Public data can be read without."""
    assert verdicts(doctor.check_credentials, machine) == ["warn"]


def test_daemon_when_none_runs_says_where_its_log_is(machine):
    """That is not a fault."""
    [finding] = doctor.check_daemon(machine)

    assert finding.verdict == "ok"
    assert "syndd.log" in finding.saw


def test_check_when_it_breaks_is_a_finding(machine):
    """The doctor goes on to the next check."""

    def broken(_machine):
        raise PermissionError("no")

    [finding] = doctor.run_check("x", broken, machine)
    assert finding.verdict == "warn"


def test_doctor_when_something_fails_is_69(synd, home, monkeypatch):
    """A script can ask whether this machine will do."""
    monkeypatch.setenv("SYND_ENDPOINT", "http://127.0.0.1:9")
    (home / "file").touch()
    monkeypatch.setenv("SYND_MOUNT", str(home / "file"))
    said = synd("doctor", "--json")

    assert said.code == 69
    assert said.json["healthy"] is False
    assert {f["check"] for f in said.json["findings"]} >= {"python", "mount point", "daemon"}


class TestTools:
    def found(self, machine, **more):
        return doctor.run_check("tools", doctor.check_tools, dataclasses.replace(machine, **more))

    @pytest.mark.req("S1-67")
    def test_tools_when_nothing_is_installed_name_what_cannot_be_prepared(self, machine):
        """And what to install for it; text is sorted and compressed by our own code, so only its index is missing."""
        found = self.found(machine, which=lambda _: None, has=lambda _: False)
        warned = [f for f in found if f.verdict != doctor.OK]
        cannot = " ".join(f.saw for f in warned if "cannot be prepared" in f.saw)

        assert {"warn"} == {f.verdict for f in warned}
        assert all(name in cannot for name in ("bam", "cram", "vcf", "bigBed", "fasta"))
        assert "csv" not in cannot
        assert any(
            "install the package samtools or pip install 'synd[genomics]'" == f.mend for f in warned
        )
        assert any("samtools or pysam is missing" in f.mend for f in warned)

    def test_tools_when_a_program_cannot_run_are_not_called_fine(self, machine, tmp_path):
        """It is on PATH, and every job that needs it would fail."""
        program = tmp_path / "samtools"
        program.write_text("#!/bin/sh\nkill -SEGV $$\n")
        program.chmod(0o755)
        found = self.found(machine, which=lambda name: str(program) if name == "samtools" else None)
        told = [f for f in found if str(program) in f.saw]

        assert told
        assert {"warn"} == {f.verdict for f in told}
        assert all("it may not work" in f.saw and "builtin" in f.mend for f in told)

    def test_tools_when_packages_do_a_step_say_what_a_program_would_gain(self, machine):
        """Works, but slower: no complaint."""
        found = self.found(machine, which=lambda _: None, has=lambda _: True)

        assert {doctor.OK} == {f.verdict for f in found}
        assert any("pysam" in f.saw and "samtools: 1.5 times faster" in f.saw for f in found)

    @pytest.mark.parametrize(("gtf", "verdict"), [("native", "ok"), ("gff3", "warn")])
    def test_gffread_when_missing_matters_only_where_it_is_wanted(self, machine, gtf, verdict):
        """By the setting gtf."""
        config = dataclasses.replace(machine.config, gtf=gtf)
        found = self.found(machine, config=config, which=lambda _: None, has=lambda _: True)

        assert [verdict] == [f.verdict for f in found if f.saw.startswith("GTF to GFF3")]

    def test_tools_when_a_setting_rules_one_out_say_so(self, machine):
        """The mend is the setting, not an installation."""
        config = dataclasses.replace(machine.config, tools="builtin", gtf="gff3")
        found = self.found(machine, config=config, which=lambda _: "/bin/true", has=lambda _: True)

        assert ["set SYND_TOOLS=auto"] == [f.mend for f in found if "GTF to GFF3: nobody" in f.saw]
