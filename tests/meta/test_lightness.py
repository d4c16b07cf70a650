"""What starts often starts quickly, and what runs for months stays small."""

import subprocess
import sys

from synd.cli import main

HEAVY = [
    "httpx",
    "fastapi",
    "uvicorn",
    "pydantic",
    "sqlite3",
    "sqlite_utils",
    "rich",
    "asyncio",
    "ssl",
]
FUSE = ["mfusepy", "fuse", "fusepy"]


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return set(done.stdout.split())


def test_cli_always_leaves_heavy_packages_to_the_command_that_needs_them():
    """`synd --help` and `synd status` load no HTTP library, no framework, no database."""
    assert not loaded("import synd.cli.main") & {*HEAVY, *FUSE}


def test_command_always_leaves_the_others_unread():
    """They would be a third of the start of `synd status`."""
    found = loaded("from synd.cli import main\nmain.run(['status', '--help'])")

    assert "synd.cli.status" in found
    assert not found & {f"synd.cli.{module}" for module in main.COMMANDS if module != "status"}


def test_package_always_loads_nothing_by_itself():
    """`import synd` costs nothing."""
    ours = {m for m in loaded("import synd") if m.startswith("synd")}

    assert ours == {"synd"}


def test_control_client_always_needs_the_standard_library_only():
    """Anybody's program may talk to the daemon without our dependencies in its memory."""
    found = loaded("import synd.control.connect")

    assert not found & {"httpx", "fastapi", "pydantic", "typer", "rich", "sqlite3", *FUSE}


def test_lifecycle_always_leaves_the_framework_until_the_mount_answers():
    """FastAPI is imported by the control server only, which the lifecycle imports late."""
    assert not loaded("import syndd.__main__, syndd.lifecycle") & {"fastapi", "uvicorn", "pydantic"}
