"""Trees: walk, syncFromSynapse, syncToSynapse, and the model's own sync."""

import synapseutils
from prelude import OLD, WORK, login, unique, write
from synapseclient.models import Folder, Project

# Not silent: 4.5.0 fails without its progress bar.
syn = login(silent=False)
project = Project(name=unique("Sync")).store()
syn_project = syn.get(project.id)
for name in ("top.txt", "sub/one.txt", "sub/deep/two.txt"):
    write(f"tree/{name}", name)
manifest = str(WORK / "up.tsv")
synapseutils.generate_sync_manifest(syn, str(WORK / "tree"), project.id, manifest)
synapseutils.syncToSynapse(syn, manifest, sendMessages=False)

seen = {}
for (path, _), folders, files in synapseutils.walk(syn, project.id):
    seen[path.partition("/")[2]] = (sorted(n for n, _ in folders), sorted(n for n, _ in files))
assert seen == {
    "": (["sub"], ["top.txt"]),
    "sub": (["deep"], ["one.txt"]),
    "sub/deep": ([], ["two.txt"]),
}, seen

syn.cache.purge(after_date=0)
files = synapseutils.syncFromSynapse(syn, project.id, path=str(WORK / "down"))
assert len(files) == 3
assert (WORK / "down/sub/deep/two.txt").read_text() == "sub/deep/two.txt"
assert (WORK / "down/SYNAPSE_METADATA_MANIFEST.tsv").exists()

Project(id=project.id).sync_from_synapse(path=str(WORK / "model"), download_file=True)
assert (WORK / "model/sub/one.txt").read_text() == "sub/one.txt"

if not OLD:
    up = Project(name=unique("Sync up")).store()
    target = Folder(name="in", parent_id=up.id).store()
    found = target.generate_sync_manifest(
        directory_path=str(WORK / "tree"), manifest_path=str(WORK / "model.csv")
    )
    target.sync_to_synapse(manifest_path=str(WORK / "model.csv"), send_messages=True)
    names = []
    for _, _, files in target.walk():
        names += [getattr(f, "name", None) or f[0] for f in files]
    assert sorted(names) == ["one.txt", "top.txt", "two.txt"], names
