"""The demo's project: sample files from the package, and what only a service can hold.

Seeds the plain files into a registry's folder, then, over REST, adds what makes Synapse more than a
disk: several versions of a file, annotations, a link, and provenance.
"""

from __future__ import annotations

import asyncio
import csv
import hashlib
import importlib.resources
import random
import shutil
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from synd.client.service import SynapseClient
from synd.errors import ProtocolError

PROJECT = "Sample project"
LARGE_BYTES = 32 << 20
_PREFIX = "org.sagebionetworks.repo.model."

PROTOCOL = (
    "1. Thaw the specimens on ice.\n2. Extract RNA.\n",
    "1. Thaw the specimens on ice.\n2. Extract RNA.\n3. Measure RIN; drop what is below 6.\n",
    "1. Thaw the specimens on ice.\n2. Extract RNA.\n3. Measure RIN; drop what is below 7.\n",
)


def write_files(folder: Path) -> None:
    """Lays out the plain files of the sample project."""
    packaged = importlib.resources.files("synd.registry") / "sample"
    with importlib.resources.as_file(packaged) as source:
        shutil.copytree(source, folder, dirs_exist_ok=True)
    results = folder / "results"
    results.mkdir()
    (results / "protocol.txt").write_text(PROTOCOL[0])
    (results / "summary.csv").write_text(_summary(folder / "metadata" / "specimens.csv"))
    (folder / "large").mkdir()
    # A fixed seed: the same bytes, and so the same md5, on every machine.
    (folder / "large" / "signal.bin").write_bytes(random.Random(20).randbytes(LARGE_BYTES))


def _summary(specimens: Path) -> str:
    with open(specimens, newline="") as file:
        counts = Counter(row["tissue"] for row in csv.DictReader(file))
    return "tissue,specimens\n" + "".join(f"{t},{n}\n" for t, n in sorted(counts.items()))


async def enrich(client: SynapseClient, project: str) -> None:
    """Adds versions, annotations, a link and provenance to a seeded project."""
    top = await _children(client, project)
    results = await _children(client, top["results"])
    reads = (await _children(client, top["alignments"]))["reads.bam"]
    calls = (await _children(client, top["variants"]))["calls.vcf.gz"]
    for number, text in enumerate(PROTOCOL[1:], 2):
        await _new_version(client, results["protocol.txt"], text.encode(), f"revision {number}")
    await _annotate(
        client,
        reads,
        {
            "assay": ("STRING", ["RNA-seq"]),
            "tissue": ("STRING", ["liver", "brain"]),
            "readLength": ("LONG", ["100"]),
        },
    )
    await client.rest(
        "POST",
        "/entity",
        {
            "concreteType": f"{_PREFIX}Link",
            "name": "reads of this summary",
            "parentId": top["results"],
            "linksTo": {"targetId": reads},
        },
    )
    activity = await client.rest(
        "POST",
        "/activity",
        {
            "name": "count specimens by tissue",
            "description": "made for the demo",
            "used": [
                {
                    "concreteType": f"{_PREFIX}provenance.UsedEntity",
                    "wasExecuted": False,
                    "reference": {"targetId": source, "targetVersionNumber": 1},
                }
                for source in (reads, calls)
            ],
        },
    )
    await client.rest(
        "PUT",
        f"/entity/{results['summary.csv']}/generatedBy",
        query={"generatedBy": activity["id"]},
    )


async def _children(client: SynapseClient, parent: str) -> dict[str, str]:
    """Name → id of what lies directly below."""
    page = await client.rest(
        "POST",
        "/entity/children",
        {"parentId": parent, "includeTypes": ["folder", "file"], "sortBy": "NAME"},
    )
    return {row["name"]: row["id"] for row in page["page"]}


async def _annotate(
    client: SynapseClient, entity: str, values: dict[str, tuple[str, list[str]]]
) -> None:
    held = await client.rest("GET", f"/entity/{entity}/annotations2")
    held["annotations"] = {k: {"type": t, "value": v} for k, (t, v) in values.items()}
    await client.rest("PUT", f"/entity/{entity}/annotations2", held)


async def _new_version(client: SynapseClient, entity: str, data: bytes, comment: str) -> None:
    held = await client.rest("GET", f"/entity/{entity}")
    held["dataFileHandleId"] = await _upload(client, held["name"], data)
    held["versionComment"] = comment
    held.pop("versionLabel", None)
    await client.rest("PUT", f"/entity/{entity}", held, query={"newVersion": "true"})


async def _upload(client: SynapseClient, name: str, data: bytes) -> str:
    """The file handle id of `data`, sent as one part."""
    digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
    part_bytes = max(5 << 20, len(data))
    status: Any = await client.rest(
        "POST",
        "/file/v1/file/multipart",
        {
            "concreteType": f"{_PREFIX}file.MultipartUploadRequest",
            "fileName": name,
            "contentType": "text/plain",
            "contentMD5Hex": digest,
            "fileSizeBytes": len(data),
            "partSizeBytes": part_bytes,
            "generatePreview": False,
        },
    )
    if status["state"] != "COMPLETED":
        route = f"/file/v1/file/multipart/{status['uploadId']}"
        urls = await client.rest(
            "POST",
            f"{route}/presigned/url/batch",
            {"uploadId": status["uploadId"], "partNumbers": [1]},
        )
        url = urls["partPresignedUrls"][0]["uploadPresignedUrl"]
        await asyncio.to_thread(_put, url, data)
        await client.rest("PUT", f"{route}/add/1", query={"partMD5Hex": digest})
        status = await client.rest("PUT", f"{route}/complete")
    handle = status.get("resultFileHandleId")
    if handle is None:
        raise ProtocolError(f"the upload of {name} did not complete")
    return str(handle)


def _put(url: str, data: bytes) -> None:
    # The URL is the word of the registry that the demo itself started.
    with urllib.request.urlopen(urllib.request.Request(url, data, method="PUT"), timeout=30):  # noqa: S310
        pass
