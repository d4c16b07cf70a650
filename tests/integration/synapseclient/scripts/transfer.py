"""Bytes: 20 MiB up in parts and down in ranges, cold and warm cache, no download."""

import os
from pathlib import Path

from prelude import WORK, login, unique, write
from synapseclient import File, Project

syn = login()
project = syn.store(Project(unique("Transfer")))
data = os.urandom(20 << 20)
path = write("big.bin", data)
big = syn.store(File(path, parent=project))
assert int(big["_file_handle"]["contentSize"]) == len(data)
syn.cache.purge(after_date=0)
os.unlink(path)
got = syn.get(big.id, downloadLocation=str(WORK / "down"))
assert Path(got.path).read_bytes() == data
warm = syn.get(big.id, downloadLocation=str(WORK / "down"))
assert warm.path == got.path

small = syn.store(File(write("small.bin", os.urandom(4096)), parent=project))
without = syn.get(small.id, downloadFile=False)
assert without["_file_handle"]["contentSize"] == 4096
external = syn.store(
    File("https://example.invalid/x.dat", parent=project, name="ext", synapseStore=False)
)
assert syn.get(external.id, downloadFile=False).externalURL == "https://example.invalid/x.dat"
