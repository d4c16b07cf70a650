"""The examples of SEMANTICS.md are true: each is run on a real mount and prints what the page says."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounts import mount_fusectl
from tests.support.source import ROOT
from tests.support.world import World, remote

PAGE = (ROOT / "docs" / "SEMANTICS.md").read_text()


def examples() -> list[tuple[str, str]]:
    """(command, what it prints) of every console block, in order."""
    found: list[tuple[str, str]] = []
    for block in re.findall(r"^```console\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_page_always_has_examples():
    """A page whose examples vanish would pass silently."""
    assert len(examples()) >= 8


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, str]]:
    """A mount with what the examples speak of: project Sem, a file of two versions."""
    if not Path("/dev/fuse").exists():
        pytest.skip("no /dev/fuse on this machine")
    if os.geteuid() != 0:
        pytest.skip("these tests mount as root")
    mount_fusectl()
    root = tmp_path_factory.mktemp("semantics")
    with remote(root / "data") as server:
        project = server.project("Sem")
        entity = server.file(project, "two.txt", b"first\n")
        server.new_version(entity, b"second\n")
        world = World(root / "world", server, upload_delay_s=0.2)
        try:
            world.up()
            yield world, project
        finally:
            world.close()


@pytest.fixture(scope="module")
def printed(mounted: tuple[World, str]) -> list[str]:
    """What each example prints, run one after the other as a reader would."""
    world, project = mounted
    env = {
        "SEM": project,
        "SYND_HOME": str(world.home),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    return [
        world.run("sh", "-c", f"{command} 2>&1", cwd=str(world.mount), env=env).out
        for command, _ in examples()
    ]


@pytest.mark.fuse
@pytest.mark.parametrize("number", range(len(examples())), ids=lambda n: examples()[n][0][:40])
def test_example_when_run_prints_what_the_page_says(printed, number):
    """Word for word, in a shell at the top of the mount."""
    assert examples()[number][1] == printed[number]
