"""The README is true: its transcript runs, its commands exist, its links lead somewhere."""

import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from synd.cli.main import program
from tests.support.source import ROOT

README = (ROOT / "README.md").read_text()
PAGES = [
    p for p in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if p.name != "requirements.md"
]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_readme_always_fits_a_screen_and_a_half():
    """Longer ones are not read."""
    assert len(README.splitlines()) <= 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_page_always_links_to_what_exists(page):
    """Relative links lead to files of the repository."""
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
    missing = [t for t in targets if not (page.parent / t).exists()]

    assert not missing


def test_readme_always_names_commands_that_exist():
    """Every `synd …` in it is a command, with options it has."""
    group = typer.main.get_command(program())
    lines = re.findall(r"(?:^\$? ?|`|&& |\b)(synd [a-z][^`\n&|#>]*)", README, re.MULTILINE)
    checked = 0
    for line in lines:
        words = [w for w in shlex.split(line.replace("\\ ", "_").replace('"', "")) if w]
        command = group
        for word in words[1:]:
            found = getattr(command, "commands", {}).get(word)
            if found is None:
                break
            command = found
        if command is group:
            continue  # prose: "synd shows …"
        checked += 1
        known = {name for p in command.params for name in [*p.opts, *p.secondary_opts]}
        assert {w for w in words if w.startswith("--")} <= known | {"--help"}, line
    assert checked >= 8


@pytest.mark.fuse
@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/fuse").exists(), reason="no /dev/fuse on this machine")
@pytest.mark.skipif(os.geteuid() != 0, reason="the test mounts as root")
class TestTranscript:
    def test_transcript_when_pasted_runs(self, tmp_path):
        """The block of the README, word for word, in a shell of its own."""
        [script] = blocks("sh")
        (tmp_path / ".venv" / "bin").mkdir(parents=True)
        (tmp_path / ".venv" / "bin" / "activate").write_text(
            f"export PATH={Path(sys.executable).parent}:$PATH\n"
        )
        child = subprocess.Popen(
            ["bash", "-e"],
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            out, _ = child.communicate(script, timeout=90)
        finally:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
                child.communicate(timeout=30)

        assert child.returncode == 0, out
        assert "specimen,tissue,age" in out
        assert "3. Measure RIN" in out
        assert "d817bd76c87e9de540f2d19ac27ecd9b" in out
        assert "safe to stop" in out

    def test_make_demo_when_set_up_says_what_to_try(self, tmp_path):
        """The first of the two commands that everybody runs."""
        if not (ROOT / ".venv" / ".runtime").exists():
            pytest.skip("this checkout was not set up by make")
        child = subprocess.Popen(
            ["make", "-s", "demo"],
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k != "SYND_HOME"}
            | {"TMPDIR": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        said = []
        try:
            for line in child.stdout:
                said.append(line)
                if "synd why" in line:
                    break
        finally:
            os.killpg(child.pid, signal.SIGINT)
            rest, _ = child.communicate(timeout=60)

        assert "synd why" in said[-1], "".join(said)
        assert "unmounted" in rest
