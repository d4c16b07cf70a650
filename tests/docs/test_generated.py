"""Pages that are made from the tables in the code are current."""

import shutil
import subprocess

import pytest

from tests.support.source import ROOT
from tools import generate_docs


@pytest.mark.parametrize("name", generate_docs.PAGES)
def test_page_always_is_what_the_code_says(name):
    """`make docs` would change nothing."""
    assert (ROOT / name).read_text() == generate_docs.PAGES[name](), "run `make docs`"


@pytest.mark.parametrize("command", generate_docs.commands(), ids=lambda c: c.path)
class TestEveryCommand:
    def test_command_always_says_what_it_does_and_means(self, command):
        """Each command, argument and option has its sentence."""
        assert command.help.endswith((".", "`."))
        assert all(text for _, text in [*command.arguments, *command.options]), command

    def test_command_always_takes_json(self, command):
        """Programs can use every command."""
        assert any(name.startswith("--json") for name, _ in command.options)


@pytest.mark.skipif(not shutil.which("man"), reason="no man")
def test_man_page_always_can_be_formatted():
    """Without a complaint of the formatter."""
    done = subprocess.run(
        ["man", "--warnings", "-l", str(ROOT / "docs" / "man" / "synd.1")],
        capture_output=True,
        text=True,
        timeout=30,
        env={"MANWIDTH": "100", "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )

    assert done.returncode == 0
    assert done.stderr == ""
    assert "synd up" in done.stdout
