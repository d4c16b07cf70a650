"""docs/curation.md and examples/curation are true: they run against a registry, and what is shown is what is there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.curating import EXAMPLE, METADATA, Curator
from tests.support.registry import Registry, running
from tests.support.source import ROOT

PAGE = ROOT / "docs" / "curation.md"
SHOWN = re.compile(
    r"<!-- (?P<path>\S+):(?P<first>\d+)-(?P<last>\d+) -->\n```\w*\n(?P<text>.*?)```", re.DOTALL
)
SCRIPT = EXAMPLE / "curate.py"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with running(tmp_path_factory.mktemp("example") / "data") as registry:
        yield registry


@pytest.fixture
def curator(served: Registry) -> Curator:
    return Curator(served)


def run(argv: list[str], curator: Curator, home: Path, **more: str) -> subprocess.CompletedProcess:
    """A program with `synd` and Python on its PATH, at home in an empty folder."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        argv,
        env={**os.environ, **curator.environ(home / "synd"), "PATH": path, **more},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.req("S0-42", "S0-43")
def test_example_when_run_twice_tells_the_same_and_doubles_nothing(curator: Curator, tmp_path):
    """Schema, task, grid, import, validation, row errors, export, deletion: 8 rows of 14 columns, 3 not valid."""
    argv = [sys.executable, str(SCRIPT), f"syn{curator.project}"]

    first = run(argv, curator, tmp_path)
    second = run(argv, curator, tmp_path)

    for n, done in enumerate((first, second), start=2):
        assert (65, "") == (done.returncode, done.stderr)
        lines = done.stdout.splitlines()
        assert "8 rows imported: 0 new, 8 updated" == lines[0]
        assert re.fullmatch(r"row 6 \(\d+\.\d+\), sex: F is not a valid enum value", lines[1])
        assert "5 valid, 3 invalid: invalid" == lines[-2]
        assert re.fullmatch(rf"syn\d+ is now version {n}", lines[-1])
    tasks = curator.do(lambda c: c.curation_tasks(curator.project))
    assert ["Specimen metadata"] == [task.data_type for task in tasks]
    source = tasks[0].record_set
    assert [] == curator.do(lambda c: c.grid_sessions(source))


@pytest.mark.req("S0-43")
def test_example_rows_always_are_8_of_14_columns():
    """With a quote, a comma and an umlaut among them."""
    text = METADATA.read_text(encoding="utf-8")

    assert 9 == len(text.splitlines())
    assert 13 == text.splitlines()[0].count(",")
    assert all(sign in text for sign in ('""', ", left", "ö"))


@pytest.mark.req("S0-54")
def test_example_always_has_its_inputs_as_constants_at_the_top():
    """Paths and ids stand before the first function, and nowhere else."""
    head, _, body = SCRIPT.read_text().partition("\nasync def ")

    assert {"PROJECT", "CSV", "SCHEMA", "KEY", "DATA_TYPE", "TIMEOUT_S"} <= set(
        re.findall(r"^([A-Z_]+) = ", head, re.MULTILINE)
    )
    assert not re.findall(r"[\"'](?:syn\d+|[^\"'\n]*\.(?:csv|json))[\"']", body)


@pytest.mark.req("S0-01")
@pytest.mark.skipif(not Path("/bin/bash").exists(), reason="there is no bash here")
def test_page_when_its_commands_are_pasted_runs(curator: Curator, tmp_path):
    """The block of the page, word for word, in a shell that stops at the first error."""
    [block] = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "examples").symlink_to(ROOT / "examples")

    done = run(
        ["/bin/bash", "-euo", "pipefail", "-c", block], curator, tmp_path,
        PROJECT=f"syn{curator.project}",
    )  # fmt: skip

    assert 0 == done.returncode, done.stdout + done.stderr
    assert "8 rows imported: 0 new, 8 updated" in done.stdout
    assert "nothing was exported" in done.stderr
    assert "is now version 2: 5 valid, 3 invalid, 0 pending" in done.stdout
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    assert 9 == len((tmp_path / "rows.csv").read_text().splitlines())


@pytest.mark.req("S0-59")
@pytest.mark.parametrize(
    "page", [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"], ids=lambda p: p.name
)
def test_lines_when_a_page_shows_them_are_those_of_the_file(page):
    """`<!-- PATH:FIRST-LAST -->` before a block says where it is from."""
    for found in SHOWN.finditer(page.read_text(encoding="utf-8")):
        lines = (ROOT / found["path"]).read_text(encoding="utf-8").splitlines(keepends=True)
        wanted = "".join(lines[int(found["first"]) - 1 : int(found["last"])])
        assert wanted == found["text"], f"{found['path']}:{found['first']}-{found['last']}"


def test_page_of_curation_always_shows_lines_of_the_example():
    """The check above has something to check, and each range begins and ends with a line of code."""
    found = list(SHOWN.finditer(PAGE.read_text(encoding="utf-8")))

    assert 2 <= len(found)
    for one in found:
        lines = one["text"].splitlines()
        assert lines[0].strip()
        assert lines[-1].strip()
