"""The bytes of the genomics fixtures, as their manifest lists them, and programs that judge ours."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.support.source import ROOT

FIXTURES = ROOT / "tests" / "fixtures" / "genomics"


@cache
def manifest() -> list[dict[str, Any]]:
    """The rows of the fixtures' manifest."""
    files: list[dict[str, Any]] = json.loads((FIXTURES / "manifest.json").read_text())["files"]
    return files


def fixture(name: str) -> bytes:
    """The bytes of one fixture."""
    return (FIXTURES / name).read_bytes()


def ran(program: str, *arguments: str | Path, input: bytes | None = None) -> bytes:
    """What a program prints that must end well; skips the test where it is not on PATH."""
    if (found := shutil.which(program)) is None:
        pytest.skip(f"{program} is not on PATH")
    done = subprocess.run(
        [found, *map(str, arguments)],
        input=input,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    return done.stdout


def member(data: bytes, level: int = 6) -> bytes:
    """One gzip member, the same each time."""
    return gzip.compress(data, level, mtime=0)
