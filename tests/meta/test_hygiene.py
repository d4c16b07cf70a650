"""What must not be in the repository: machine paths, hosts, secrets, hard-wired temporary folders."""

import re
import subprocess

import pytest

from tests.support.source import ROOT

TEXT = {".py", ".md", ".toml", ".sql", ".service", ".sh", ".yml", ".yaml", ".cfg", ".txt", ""}


def tracked() -> list:
    """Files that belong to the repository, new ones too."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    files = [ROOT / line for line in done.stdout.splitlines()]
    return [f for f in files if f.is_file() and f.suffix in TEXT and f.name != "test_hygiene.py"]


@pytest.mark.parametrize(
    ("what", "pattern"),
    [
        (
            "a path of one machine",
            rf"{re.escape(str(ROOT))}/|/root/(?!\.)|/home/[a-z]+/(?:src|work|git)",
        ),
        ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY"),
        ("an access token", r"\beyJ[A-Za-z0-9_-]{60,}\.[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_-]{20,}"),
        ("a merge's mark", r"^(?:<{7}|>{7}) "),
    ],
    ids=lambda v: v if re.fullmatch(r"[\w' ]+", v) else "",
)
def test_repository_never_holds(what, pattern):
    """Found by text, wherever it is."""
    found = re.compile(pattern, re.MULTILINE)
    wrong = [
        str(f.relative_to(ROOT)) for f in tracked() if found.search(f.read_text(errors="replace"))
    ]

    assert not wrong, f"{what} in {wrong}"


SHARED = {
    ".py": r"[\"'](?:/tmp|/var/tmp|/dev/shm)/",
    # In pages and scripts a word, not a string; a mount point under /tmp is where the user puts it.
    ".sh": r"(?:>|-o|--out\S*|TMPDIR=)\s*[\"']?(?:/tmp|/var/tmp|/dev/shm)/",
    ".md": r"(?:>|-o|--out\S*|TMPDIR=|download \S+)\s*[\"']?(?:/tmp|/var/tmp|/dev/shm)/",
}


@pytest.mark.req("S0-45")
def test_source_never_writes_into_a_shared_temporary_folder():
    """`/tmp/…` as a place to write is open to others; `tempfile` is not."""
    wrong = [
        str(f.relative_to(ROOT))
        for f in tracked()
        if f.suffix in (".py", ".md", ".sh")
        and f.parts[len(ROOT.parts)]
        in ("src", "daemon", "benchmarks", "tools", "examples", "docs", "README.md")
        and re.search(SHARED[f.suffix], f.read_text())
    ]

    assert not wrong
