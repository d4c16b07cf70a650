"""The resources of the registry, one file each. A file's `add(router)` names its routes; `all_routes` lists the files.

A new resource is a new file here and one more line in `all_routes`.
"""

from __future__ import annotations

from collections.abc import Callable

from synd.registry.web import Router


def all_routes() -> list[Callable[[Router], None]]:
    """The `add` functions of all resources."""
    from synd.registry.routes import (
        access,
        activities,
        admin,
        annotations,
        asyncjobs,
        bundles,
        children,
        columns,
        curation,
        entities,
        evaluations,
        filehandles,
        grids,
        multipart,
        projects,
        schemas,
        start,
        storage,
        submissions,
        tables,
        tokens,
        trash,
        users,
        wikis,
    )

    resources = (
        start, users, tokens, entities, bundles, children, annotations, access, projects, trash,
        filehandles, multipart, storage, activities, asyncjobs, columns, tables, wikis, schemas,
        curation, grids, evaluations, submissions, admin,
    )  # fmt: skip
    return [resource.add for resource in resources]
