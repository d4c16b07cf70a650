"""What holds for every test: a home of its own, no unannounced warning, requirements by name, named skips."""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import requirements
from tests.support.disks import small_disk

ROOT = Path(__file__).parent.parent


def _leave_the_user_alone() -> None:
    """Before anything is imported or started: no test may see the user's settings, token or cache."""
    real = os.environ.get("HOME", "")
    # Environments of foreign clients are installed once, and must not be fetched anew for every run.
    os.environ.setdefault("PIP_CACHE_DIR", f"{real}/.cache/pip")
    os.environ["HOME"] = home = tempfile.mkdtemp(prefix="synd-test-home-")
    atexit.register(_remove, home, os.getpid())
    for name in list(os.environ):
        if name.startswith(("SYND_", "XDG_", "SYNAPSE_")) or name in (
            "CREDENTIALS_DIRECTORY",
            "NOTIFY_SOCKET",
            "LISTEN_PID",
        ):
            del os.environ[name]


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


_leave_the_user_alone()


class _Warnings(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.seen: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        text = f"{record.levelname} {record.name} {record.getMessage()}"
        if (more := getattr(record, "fields", None)) is not None:
            text += " " + " ".join(f"{k}={v}" for k, v in more.items())
        self.seen.append(text)


@pytest.fixture(autouse=True)
def _no_unannounced_warning(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test fails on a WARNING in our log that it did not announce.

    It announces by `@pytest.mark.announces("event…")`, or by taking `caplog`: then it looks by itself.
    """
    handler = _Warnings()
    loggers = [logging.getLogger(name) for name in ("synd", "syndd")]
    for logger in loggers:
        logger.addHandler(handler)
    yield
    for logger in loggers:
        logger.removeHandler(handler)
    if "caplog" in request.fixturenames:
        return
    announced = [
        re.compile(pattern)
        for mark in request.node.iter_markers("announces")
        for pattern in mark.args
    ]
    left = [line for line in handler.seen if not any(p.search(line) for p in announced)]
    if left:
        pytest.fail("unannounced in the log:\n  " + "\n  ".join(left), pytrace=False)


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk without any room."""
    with small_disk(tmp_path / "disk", "size=4k") as where:
        (where / "filler").write_bytes(bytes(4096))
        yield where


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--requirements",
        action="store_true",
        help="run nothing; print which requirements a test proves, by seed",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--requirements"):
        config.option.collectonly = True
        config.option.markexpr = ""


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuses marks with ids that do not exist: a misspelled one would prove nothing."""
    known = requirements.load(ROOT / "docs" / "requirements.md")
    proved: dict[str, list[str]] = defaultdict(list)
    unknown = []
    for item in session.items:
        for mark in item.iter_markers("req"):
            for id in mark.args:
                (proved[id] if id in known else unknown).append(f"{id}  {item.nodeid}")
    if unknown:
        raise pytest.UsageError("unknown requirements:\n  " + "\n  ".join(unknown))
    if session.config.getoption("--requirements"):
        print(requirements.report(known, proved))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Names what was skipped, by reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for report in terminalreporter.stats.get("skipped", []):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reasons[reason.removeprefix("Skipped: ")].append(report.nodeid)
    if not reasons:
        return
    terminalreporter.section("skipped, by reason")
    for reason, tests in sorted(reasons.items()):
        terminalreporter.line(f"{reason}")
        for name in sorted(set(tests))[:8]:
            terminalreporter.line(f"    {name}")
        if len(tests) > 8:
            terminalreporter.line(f"    and {len(tests) - 8} more")
