-- The present schema. Times are UTC ns since 1970; ids are the service's own numbers; booleans 0/1.
-- Everything here but `pin` is known to the service and could be asked for again. Jobs: jobs.sql.

-- What the rows below belong to. `endpoint` and `user`: rows of one never mix with those of another.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One entity as its folder's listing told it, and the bytes of its present version.
CREATE TABLE entity (
    id            INTEGER PRIMARY KEY,          -- 123 for syn123
    parent        INTEGER NOT NULL,             -- entity id; 0 for projects; -1 while unknown (reached by @id)
    name          TEXT    NOT NULL,             -- as the service spells it
    file_name     BLOB    NOT NULL,             -- as the mount spells it (UTF-8), unique in its folder
    kind          TEXT    NOT NULL,             -- synd.model.Kind
    version       INTEGER NOT NULL DEFAULT 0,   -- 0 for what has no versions
    created_ns    INTEGER NOT NULL,
    modified_ns   INTEGER NOT NULL,
    modified_by   TEXT    NOT NULL DEFAULT '',
    listed        INTEGER NOT NULL CHECK (listed IN (0, 1)),  -- 0: known, but not (any more) in its folder's listing
    -- What only a bundle or a view tells. It holds for the entity as of `detail_ns`; it may be out of
    -- date when that is not `modified_ns`. -1: not known for this version. A new version empties it.
    detail_ns     INTEGER NOT NULL DEFAULT -1,
    etag          TEXT    NOT NULL DEFAULT '',
    handle        INTEGER,                      -- remote file handle; NULL: none, or not ours to see
    md5           TEXT,
    size          INTEGER,                      -- bytes; NULL: unknown even to the service
    handle_name   TEXT    NOT NULL DEFAULT '',
    content_type  TEXT    NOT NULL DEFAULT '',
    store         TEXT    NOT NULL DEFAULT 's3',-- synd.model.Store
    url           TEXT,                         -- external link
    target        INTEGER,                      -- links: entity id
    target_version INTEGER,
    annotations   TEXT,                         -- JSON: key → [type, [values]]; NULL: not known (views tell none)
    unmet_terms   INTEGER NOT NULL DEFAULT 0 CHECK (unmet_terms IN (0, 1)),
    -- What a download has shown the bytes not to be: set after a second md5 mismatch, cleared by a new version.
    corrupt       TEXT
) STRICT;

-- lookup: WHERE parent = ? AND file_name = ?
CREATE UNIQUE INDEX entity_by_name ON entity (parent, file_name) WHERE listed = 1;
-- listing: WHERE parent = ? AND listed = 1 AND id > ? ORDER BY id
CREATE INDEX entity_in_folder ON entity (parent, listed, id);
-- sizes still to ask for: WHERE parent = ? AND kind = 'file' AND detail_ns <> modified_ns
CREATE INDEX entity_undetailed ON entity (parent, id) WHERE listed = 1 AND detail_ns <> modified_ns;

-- What is known of a folder's listing. 0 is the top of the mount.
CREATE TABLE folder (
    id          INTEGER PRIMARY KEY,
    listed_ns   INTEGER NOT NULL DEFAULT 0,     -- when the last whole listing began; 0: never
    checked_ns  INTEGER NOT NULL DEFAULT 0,     -- when the service last confirmed it
    visited_ns  INTEGER NOT NULL DEFAULT 0,     -- when somebody last looked
    total       INTEGER NOT NULL DEFAULT -1,    -- children the service counted; -1: not told
    sum_bytes   INTEGER NOT NULL DEFAULT -1,    -- their sizes together; -1: not told
    project     INTEGER NOT NULL DEFAULT 0      -- the project it lies in; 0: unknown
) STRICT;

-- polling: the folders visited last
CREATE INDEX folder_by_visit ON folder (visited_ns) WHERE listed_ns > 0;

-- Rows of an entity view that came before the listing they belong to. Used when id, version and
-- modified time agree with the listing; a view lags behind, so it never speaks of names.
CREATE TABLE view_row (
    id           INTEGER PRIMARY KEY,
    version      INTEGER NOT NULL,
    modified_ns  INTEGER NOT NULL,
    etag         TEXT NOT NULL,
    handle       INTEGER,
    md5          TEXT,
    size         INTEGER,
    handle_name  TEXT NOT NULL
) STRICT;

-- The view that tells a project's sizes, and when it was last read.
CREATE TABLE view (
    project   INTEGER PRIMARY KEY,
    view      INTEGER NOT NULL,                 -- 0: looked for, none there
    read_ns   INTEGER NOT NULL DEFAULT 0
) STRICT;

-- Versions that are not the present one, or whose listing was asked for.
CREATE TABLE version (
    entity       INTEGER NOT NULL,
    number       INTEGER NOT NULL,
    label        TEXT    NOT NULL DEFAULT '',
    comment      TEXT    NOT NULL DEFAULT '',
    modified_ns  INTEGER NOT NULL,
    modified_by  TEXT    NOT NULL DEFAULT '',
    handle       INTEGER,
    md5          TEXT,
    size         INTEGER,
    PRIMARY KEY (entity, number)
) STRICT, WITHOUT ROWID;

-- For which state of the entity its version listing is complete.
CREATE TABLE version_listing (
    entity       INTEGER PRIMARY KEY,
    modified_ns  INTEGER NOT NULL
) STRICT;

-- Entities that stay in the cache: a file, or a folder with all below it.
CREATE TABLE pin (
    entity     INTEGER PRIMARY KEY,
    pinned_ns  INTEGER NOT NULL
) STRICT;
