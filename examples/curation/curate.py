"""Curation from beginning to end, with no web page: schema, task, grid, import, validation, export.

Needs SYND_ENDPOINT (or Synapse itself) and a token, as `synd` does. Run it twice and nothing is doubled.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from synd.client.service import SynapseClient
from synd.clock import Deadline
from synd.curation import create_record_based, register_schema
from synd.grid import export, get_validation, import_csv, read_schema
from synd.ids import EntityId, entity_id, syn

PROJECT = "syn123"  # the project that the task belongs to
CSV = Path(__file__).with_name("metadata.csv")  # the rows to curate
SCHEMA = Path(__file__).with_name("schema.json")  # what a valid row is; its "$id" names it
RECORD_SET = "Specimens"  # name of the record set
KEY = ["specimenID"]  # columns by which a row is known again
DATA_TYPE = "Specimen metadata"  # one task of each data type in a project
INSTRUCTIONS = "Fill in one row for every specimen that was sequenced."
EXPORT_INVALID = True  # make a version even though some rows are not valid
TIMEOUT_S = 300.0  # for everything together


async def main(project: EntityId) -> int:
    deadline = Deadline.after(TIMEOUT_S, "the curation")
    async with SynapseClient.open() as client:
        record_set = await find_record_set(client, project, deadline)
        session = await client.create_grid(record_set=record_set, deadline=deadline)
        try:
            done = await import_csv(client, session.id, CSV, deadline=deadline)
            print(f"{done.total} rows imported: {done.created} new, {done.updated} updated")

            found = await get_validation(client, session.id, deadline=deadline)
            for row in found.problems:
                for message in row.messages:
                    print(f"row {row.row} ({row.row_id}), {message.column}: {message.text}")
            print(f"{found.valid_rows} valid, {found.invalid_rows} invalid: {found.verdict}")

            if found.is_valid or (EXPORT_INVALID and found.settled):
                made = await export(client, session.id, deadline=deadline)
                print(f"{syn(made.record_set)} is now version {made.version}")
            return 0 if found.is_valid else 65
        finally:
            await client.delete_grid(session.id)


async def find_record_set(client: SynapseClient, project: EntityId, deadline: Deadline) -> EntityId:
    """The record set of the task of this data type; schema, record set and task are made if they are not there."""
    schema = await register_schema(client, read_schema(SCHEMA), deadline=deadline)
    for task in await client.curation_tasks(project, deadline=deadline):
        if task.data_type == DATA_TYPE and task.record_set is not None:
            return task.record_set
    made = await create_record_based(
        client,
        project,
        project,
        RECORD_SET,
        template=CSV,
        upsert_key=KEY,
        data_type=DATA_TYPE,
        instructions=INSTRUCTIONS,
        schema=schema.uri,
        deadline=deadline,
    )
    return made.record_set.id


if __name__ == "__main__":
    sys.exit(asyncio.run(main(entity_id(sys.argv[1] if len(sys.argv) > 1 else PROJECT))))
