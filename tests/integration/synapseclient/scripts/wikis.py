"""Wikis: legacy with inline text, the model with gzipped Markdown."""

from prelude import OLD, fails_with, login, unique
from synapseclient import Project, Wiki

syn = login()
project = syn.store(Project(unique("Wiki")))
fails_with(404, syn.getWiki, project)
wiki = syn.store(Wiki(title="Root", markdown="# Hello", owner=project))
assert syn.getWiki(project).markdown == "# Hello"
wiki.markdown = "# Changed"
syn.store(wiki)
assert syn.getWiki(project).markdown == "# Changed"
assert len(syn.getWikiHeaders(project)) == 1
sub = syn.store(Wiki(title="Sub", markdown="below", owner=project, parentWikiId=wiki.id))
assert len(syn.getWikiHeaders(project)) == 2

if not OLD:
    from synapseclient.models import Project as ModelProject
    from synapseclient.models import WikiPage

    owner = ModelProject(name=unique("Wiki model")).store()
    page = WikiPage(owner_id=owner.id, title="Page", markdown="text").store()
    assert WikiPage(owner_id=owner.id, id=page.id).get().title == "Page"
