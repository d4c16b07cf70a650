"""The real json-joy under Node, as a peer: installed once by npm into the user's cache."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VERSION = "17.67.0"
"""What the service's web client depends on."""
SCRIPT = Path(__file__).with_suffix(".cjs")
INSTALL_S = 240.0
RUN_S = 240.0


class UnavailableError(Exception):
    """json-joy cannot be run here; the text says why."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What json-joy answered, a dict per job, and the most memory it had."""

    jobs: list[dict[str, Any]]
    peak_bytes: int


def folder() -> Path:
    """The folder that holds json-joy. Raises UnavailableError."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not here")
    # HOME may be a test's own; npm's settings and the cache are the user's.
    home = Path(pwd.getpwuid(os.getuid()).pw_dir)
    place = home / ".cache" / "synd-tests" / f"json-joy-{VERSION}"
    if (place / "node_modules" / "json-joy" / "package.json").is_file():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=place.parent))
    except OSError as error:
        raise UnavailableError(f"no place for json-joy: {error}") from error
    try:
        subprocess.run(
            [
                "npm",
                "install",
                "--no-audit",
                "--no-fund",
                "--ignore-scripts",
                f"json-joy@{VERSION}",
            ],
            cwd=aside,
            env=os.environ | {"HOME": str(home)},
            check=True,
            capture_output=True,
            text=True,
            timeout=INSTALL_S,
        )
        if not place.exists():
            aside.rename(place)
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"npm cannot install json-joy@{VERSION}: {error}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return place


def ask(jobs: Sequence[dict[str, Any]], *, heap_mib: int = 4096) -> Answers:
    """What json-joy makes of snapshots and patches (see the script). Raises UnavailableError."""
    done = subprocess.run(
        ["node", f"--max-old-space-size={heap_mib}", str(SCRIPT), str(folder())],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=RUN_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"json-joy failed: {done.stderr[-2000:]}")
    *answers, last = map(json.loads, done.stdout.splitlines())
    return Answers(answers, int(last["peak_bytes"]))
