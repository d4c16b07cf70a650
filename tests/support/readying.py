"""What tests ask of a daemon about files made readable by region: by the command and the control API."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from synd.control import contract
from tests.support.mounts import eventually
from tests.support.world import World

GENOMICS = Path(__file__).parents[1] / "fixtures" / "genomics"


def get(world: World, path: str, *options: str, out: Path | None = None) -> tuple[int, bytes]:
    """(status, body) of a request to the control API."""
    target = out or world.root / "body"
    target.unlink(missing_ok=True)
    done = subprocess.run(
        ["curl", "-s", "-o", str(target), "-w", "%{http_code}", *options,
         "--unix-socket", str(world.folders.socket), f"http://synd{path}"],
        capture_output=True, timeout=60, check=True,
    )  # fmt: skip
    return int(done.stdout), target.read_bytes() if target.exists() else b""


def prepare(world: World, *paths: str) -> Any:
    """`synd prepare --wait`, which must succeed; what it says."""
    done = world.synd("prepare", "--wait", "--json", *paths, timeout_s=120)
    assert done.status == 0, f"{done.out}{done.err}\n{world.log()[-3000:]}"
    return json.loads(done.out)


def jobs(world: World, subject: str = "") -> list[contract.Job]:
    """Jobs that prepare files, newest first; with `subject`, those of this one."""
    found: contract.Jobs = world.control.get(f"{contract.JOBS}?all=1&kind=preprocess")
    return [job for job in found["jobs"] if not subject or job["subject"] == subject]


def ended(world: World, subject: str, timeout_s: float = 60.0) -> list[contract.Job]:
    """The attempts at a file once none of them is to come, newest first."""
    eventually(
        lambda: (
            (found := jobs(world, subject))
            and all(job["state"] not in ("pending", "running") for job in found)
        ),
        timeout_s=timeout_s,
        what=f"the end of the jobs of {subject}",
    )
    return jobs(world, subject)


def failure(job: contract.Job) -> str:
    """The class of failure of a job; empty when it has none."""
    problem: Any = job["problem"]
    return "" if problem is None else str(problem.get("failure", ""))


def left_over(world: World) -> list[str]:
    """Names of work folders that are still there."""
    return [folder.name for folder in (world.folders.cache / "work").iterdir()]


def indexed_bam(path: Path, seed: int, reads: int = 40_000) -> tuple[bytes, bytes]:
    """A sorted BAM and its index, alike for one seed."""
    chance = random.Random(seed)
    lines = ["@HD\tVN:1.6\tSO:coordinate", "@SQ\tSN:chr1\tLN:10000000"]
    for number in range(reads):
        bases = "".join(chance.choices("ACGT", k=100))
        marks = "".join(chance.choices("#5?FGHI", k=100))
        at = 1 + number * 200
        lines.append(f"r{number}\t0\tchr1\t{at}\t60\t100M\t*\t0\t0\t{bases}\t{marks}")
    path.with_suffix(".sam").write_text("\n".join(lines) + "\n")
    for command in (
        ["samtools", "view", "-b", "-o", str(path), str(path.with_suffix(".sam"))],
        ["samtools", "index", str(path)],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    return path.read_bytes(), Path(f"{path}.bai").read_bytes()
