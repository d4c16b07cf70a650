"""What a user waits for the validation of a grid that nobody changed, over the local registry."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Row, World, at_most, run, seconds
from synd.client.service import SynapseClient
from synd.clock import Deadline
from synd.grid import operations
from synd.ids import entity_id

ROWS = 5_000
COLUMNS = 10
BOUND_S = 2.0
TURNS = 5
READY_S = 300.0
INVALID = 65


def unchanged(world: World) -> list[Row]:
    """`synd grid validate`, its start included, by REST and by the socket; every fifth row is not valid."""
    count = ROWS // 10 if world.quick else ROWS
    folder = world.folder("validate")
    source = folder / "rows.csv"
    _write(source, count)
    (folder / "seed").mkdir()
    (folder / "seed" / "a.txt").write_text("a\n")
    data = folder / "registry"
    told = run(
        [
            sys.executable, "-P", "-m", "synd.cli.registry", "seed", "--data", str(data), "--from",
            str(folder / "seed"), "--project", "Curated", "--json",
        ]
    )  # fmt: skip
    project = json.loads(told.splitlines()[-1])["project_id"]
    rows = []
    with world.registry(data) as registry:
        env = world.environment(registry, folder / "home")
        session = asyncio.run(_made(env, project, source))
        for via in ("rest", "socket"):
            took: list[float] = []
            for _ in range(world.times(TURNS)):
                began = time.perf_counter()
                done = subprocess.run(
                    [
                        sys.executable, "-P", "-m", "synd.cli.main", "grid", "validate", session,
                        "--via", via, "--json",
                    ],
                    env=env, capture_output=True, text=True, timeout=READY_S, check=False,
                )  # fmt: skip
                took.append(time.perf_counter() - began)
                found = json.loads(done.stdout)
                if done.returncode != INVALID or found["invalid_rows"] != count // 5:
                    raise RuntimeError(f"exit {done.returncode}: {done.stdout[:300]}{done.stderr}")
            rows.append(
                at_most(
                    f"validation of {count:,} unchanged rows × {COLUMNS}, by {via}",
                    took, BOUND_S, unit=seconds,
                )
            )  # fmt: skip
    return rows


def _write(path: Path, count: int) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *(f"column {n}" for n in range(1, COLUMNS))])
        for row in range(count):
            first = "wrong" if row % 5 == 0 else "right"
            rest = [f"value {row} {n}" for n in range(2, COLUMNS)]
            writer.writerow([f"R{row:06}", first, *rest])


async def _made(env: dict[str, str], project: str, source: Path) -> str:
    """A session of a record set with a bound schema, every row of which has its result."""
    deadline = Deadline.after(READY_S, "making the grid")
    schema = {
        "$id": "synd.benchmark-row-1.0.0",
        "type": "object",
        "properties": {"id": {"type": "string"}, "column 1": {"enum": ["right"]}},
        "required": ["id"],
    }
    async with SynapseClient.open(environ=env) as client:
        await client.create_organization("synd.benchmark")
        registered = await client.register_schema(schema)
        handle = await client.upload_own(source)
        made = await client.create_record_set(entity_id(project), "Rows", handle, ["id"])
        await client.bind_schema(made.id, registered.uri)
        session = await client.create_grid(record_set=made.id, deadline=deadline)
        found = await operations.get_validation(client, session.id, deadline=deadline)
        if not found.settled:
            raise RuntimeError(f"it does not settle: {found.validation_summary}")
        return session.id
