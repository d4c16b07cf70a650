"""Rules about the tests themselves."""

import ast
import re
import subprocess
import sys

import pytest

from tests.support.requirements import load, report
from tests.support.source import ROOT
from tests.support.source import tests as all_tests

FILES = all_tests()
WAITERS = {"eventually", "until", "wait_until", "wait_for"}
"""Helpers that poll a condition under a deadline: the one place where a test's process sleeps."""


def functions(tree: ast.AST):
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT / "tests")))
class TestEveryFile:
    def test_test_always_states_its_rule(self, path):
        """Each test has a docstring: the rule it proves."""
        tree = ast.parse(path.read_text())
        missing = [f.name for f in functions(tree) if not ast.get_docstring(f)]

        assert not missing

    @pytest.mark.req("S1-73")
    def test_test_never_sleeps_a_fixed_time(self, path):
        """A test waits for a condition under a deadline."""
        wrong = [
            node.lineno
            for test in functions(ast.parse(path.read_text()))
            for node in ast.walk(test)
            if isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("time.sleep", "sleep", "asyncio.sleep")
            and not (node.args and ast.unparse(node.args[0]) == "0")
        ]

        assert not wrong, f"{path.name}: lines {wrong}"

    def test_test_never_skips_without_a_reason(self, path):
        """What is skipped is named."""
        text = path.read_text()

        assert not re.search(r"mark\.skip\s*$|mark\.skip\(\)|pytest\.skip\(\)", text, re.MULTILINE)


def test_requirements_always_can_be_reported():
    """`make requirements` counts what tests name."""
    known = load(ROOT / "docs" / "requirements.md")

    assert len(known) > 300
    assert "S1-73" in known
    text = report(known, {"S1-73": ["here"]})
    assert "done     S1-73" in text
    assert text.splitlines()[-1].startswith("in all: 1 of ")


@pytest.mark.req("S1-72")
def test_test_when_its_tool_is_missing_is_skipped_by_name(tmp_path):
    """Where no program is on PATH, tests that need one say which; they neither fail nor pass."""
    chosen = f"{ROOT}/tests/integration/processors/test_commands.py::test_text_when_it_lies_ready_then_is_only_indexed"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", chosen],
        cwd=ROOT, env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip

    assert re.search(r"^\d+ skipped in", done.stdout, re.MULTILINE), done.stdout
    assert "samtools is not here" in done.stdout
