"""The functions on `Synapse`: projects, folders, files, versions, listing, moving, deleting."""

import os
from pathlib import Path

from prelude import WORK, fails_with, login, md5, unique, write
from synapseclient import Activity, File, Folder, Link, Project

syn = login()
project = syn.store(Project(unique("Legacy")))
folder = syn.store(Folder("data", parent=project))
again = syn.store(Folder("data", parent=project))
assert again.id == folder.id

path = write("a.txt", "hello\n")
one = syn.store(File(path, parent=folder))
assert one.versionNumber == 1
assert one.md5 == md5(path)

same = syn.store(File(path, parent=folder), forceVersion=False)
assert (same.id, same.versionNumber) == (one.id, 1)
forced = syn.store(File(path, parent=folder))
assert forced.versionNumber == 2

path = write("a.txt", "hello again\n")
os.utime(path, (1e9, 1e9))
changed = syn.store(File(path, parent=folder))
assert (changed.id, changed.versionNumber) == (one.id, 3)

syn.cache.purge(after_date=0)
got = syn.get(one.id, downloadLocation=str(WORK / "down"))
assert Path(got.path).read_text() == "hello again\n"
first = syn.get(one.id, version=1, downloadLocation=str(WORK / "down1"))
assert Path(first.path).read_text() == "hello\n"
assert syn.findEntityId("a.txt", parent=folder) == one.id
assert syn.findEntityId("nothing", parent=folder) is None

many = syn.store(Folder("many", parent=project))
for n in range(120):
    syn.store(Folder(f"sub{n:03d}", parent=many), createOrUpdate=False)
listed = [child["name"] for child in syn.getChildren(many)]
assert listed == [f"sub{n:03d}" for n in range(120)], listed
assert [c["name"] for c in syn.getChildren(project)] == ["data", "many"]

link = syn.store(Link(one.id, parent=project))
assert syn.get(link.id).linksTo["targetId"] == one.id
assert syn.get(link.id, followLink=True, downloadFile=False).id == one.id

other = syn.store(Folder("other", parent=project))
moved = syn.move(one.id, other)
assert moved.parentId == other.id
renamed = syn.get(one.id, downloadFile=False)
renamed.name = "renamed.txt"
renamed = syn.store(renamed, forceVersion=False)
assert renamed.name == "renamed.txt"

annotations = syn.get_annotations(one.id)
annotations["colour"] = ["red", "green"]
annotations["n"] = 7
annotations["x"] = 1.5
annotations["yes"] = True
syn.set_annotations(annotations)
back = syn.get_annotations(one.id)
assert back["colour"] == ["red", "green"], back
assert [back["n"], back["x"], back["yes"]] == [[7], [1.5], [True]], back
# Etag of before: the service has a newer one.
fails_with(412, syn.set_annotations, annotations)

fails_with(409, syn.store, Folder("other", parent=project), createOrUpdate=False)
fails_with(400, syn.store, Folder("bad:name", parent=project), createOrUpdate=False)
stale = syn.get(other.id)
fresh = syn.get(other.id)
fresh.description = "one"
syn.store(fresh)
stale.description = "two"
fails_with(412, syn.store, stale)

permissions = syn.get_permissions(one.id)
assert permissions.can_view
assert permissions.can_download
assert permissions.can_delete
assert "READ" in syn.get_acl(one.id, syn.getUserProfile()["ownerId"])
syn.setPermissions(one.id, principalId=273948, accessType=["READ", "DOWNLOAD"])
assert set(syn.get_acl(one.id, 273948)) == {"READ", "DOWNLOAD"}

activity = syn.setProvenance(
    one.id, Activity("made", used=[other.id], executed="https://x.invalid/y")
)
assert syn.getProvenance(one.id)["name"] == "made"
assert len(syn.getProvenance(one.id)["used"]) == 2
syn.deleteProvenance(one.id)
fails_with(404, syn.getProvenance, one.id)

syn.delete(one.id, version=1)
fails_with(404, syn.get, one.id, version=1, downloadFile=False)
syn.delete(one.id)
fails_with(404, syn.get, one.id, downloadFile=False)
syn.delete(project)
fails_with(404, syn.get, folder.id)
assert syn.findEntityId(project.name) is None
