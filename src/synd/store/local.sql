-- What only this machine knows: changes made here, until the service has them and afterwards.
-- The same rules as in schema.sql. Never safe to delete.

-- What was made or changed on this machine (docs/adr/0006): laid over `entity`. Never safe to delete.
-- A row stays while something of it is unsent, somebody has it open, or this machine keeps something
-- that the service does not (mode, times). `id` of what was made here is its key: inode number, node of
-- a folder, `parent` of what it holds; the key of what came from the service is its entity number.
CREATE TABLE local (
    id            INTEGER PRIMARY KEY,          -- 2^39 and up
    entity        INTEGER UNIQUE,               -- the entity it is; NULL: not on the service (yet)
    born          INTEGER NOT NULL CHECK (born IN (0, 1)),  -- 1: its key is `id`; 0: its key is `entity`
    parent        INTEGER NOT NULL,             -- key of its folder; 0: the top
    name          BLOB    NOT NULL,             -- as the mount spells it
    kind          TEXT    NOT NULL CHECK (kind IN ('file', 'folder', 'symlink', 'special')),
    gone          INTEGER NOT NULL DEFAULT 0 CHECK (gone IN (0, 1)),  -- 1: has no name any more
    local_only    INTEGER NOT NULL DEFAULT 0 CHECK (local_only IN (0, 1)),  -- 1: never sent
    heir          INTEGER,                      -- local id of what took over its name and its entity
    -- What only this machine keeps. NULL: as the service or the defaults have it.
    mode          INTEGER,                      -- permission bits; of a special file with its type
    uid           INTEGER,
    gid           INTEGER,
    rdev          INTEGER NOT NULL DEFAULT 0,
    mtime_ns      INTEGER,                      -- holds while `mtime_for` is the entity's version (0: bytes not sent yet)
    mtime_for     INTEGER NOT NULL DEFAULT 0,
    atime_ns      INTEGER,
    ctime_ns      INTEGER NOT NULL,
    xattrs        TEXT,                         -- JSON: name → hex of the value
    target        BLOB,                         -- symlink: as it was written
    -- Bytes. `edit` counts the closed changes of content; `sent` is the last that the service has.
    staged        INTEGER NOT NULL DEFAULT 0,   -- number of the staging file; 0: the bytes are those of the base
    lazy          INTEGER NOT NULL DEFAULT 0 CHECK (lazy IN (0, 1)),  -- 1: the staging file still lacks bytes of the base
    size          INTEGER NOT NULL DEFAULT 0,   -- of the staging file when `stamp` was taken
    stamp         TEXT    NOT NULL DEFAULT '',  -- size, times and inode of the staging file at the last look
    edit          INTEGER NOT NULL DEFAULT 0,
    sent          INTEGER NOT NULL DEFAULT 0,
    hashed        INTEGER NOT NULL DEFAULT 0,   -- the edit that `md5` and `handle` belong to
    md5           TEXT,
    handle        INTEGER,                      -- remote file handle of these bytes, once sent
    -- What the service had when both sides last agreed. All empty for what was never there.
    base_parent   INTEGER,                      -- entity number of its folder; 0: the top
    base_name     TEXT,                         -- as the service spells it
    base_version  INTEGER NOT NULL DEFAULT 0,
    base_etag     TEXT    NOT NULL DEFAULT '',
    base_handle   INTEGER,
    base_md5      TEXT,
    base_size     INTEGER,
    annotations   TEXT,                         -- JSON: key → [type, [values]] or null (removed); NULL: nothing to send
    comment       TEXT    NOT NULL DEFAULT '',  -- for the next version
    label         TEXT    NOT NULL DEFAULT '',
    -- Sending.
    state         TEXT    NOT NULL DEFAULT 'clean'
                  CHECK (state IN ('clean', 'waiting', 'blocked', 'held')),
    since_ns      INTEGER NOT NULL DEFAULT 0,   -- since when something is unsent; 0: nothing is
    not_before_ns INTEGER NOT NULL DEFAULT 0,   -- waiting: not tried before
    tries         INTEGER NOT NULL DEFAULT 0,   -- failures in a row
    problem       TEXT,                         -- JSON problem body of the last failure; of what blocks it
    CHECK (id >= 549755813888)
) STRICT;

-- lookup and listing of a folder's own rows: WHERE parent = ? AND name = ? / parent = ? ORDER BY id
CREATE UNIQUE INDEX local_by_name ON local (parent, name) WHERE gone = 0;
-- a delete that is not sent, under its last name: WHERE parent = ? AND name = ? AND gone = 1
CREATE INDEX local_gone ON local (parent, name) WHERE gone = 1;
-- whose name and entity it took over: WHERE heir = ?
CREATE INDEX local_by_heir ON local (heir) WHERE heir IS NOT NULL;
-- the row of a staging node: WHERE staged = ? AND staged > 0
CREATE UNIQUE INDEX local_by_staged ON local (staged) WHERE staged > 0;
-- the queue: WHERE state = 'waiting' AND not_before_ns <= ? ORDER BY not_before_ns
CREATE INDEX local_waiting ON local (not_before_ns) WHERE state = 'waiting';
-- status: what is unsent, oldest first
CREATE INDEX local_unsent ON local (since_ns) WHERE state <> 'clean';

-- One save whose bytes wait to become a version of their own (setting `versions = every`).
CREATE TABLE save (
    local   INTEGER NOT NULL,
    edit    INTEGER NOT NULL,
    staged  INTEGER NOT NULL,                   -- number of the file in the staging folder
    PRIMARY KEY (local, edit)
) STRICT, WITHOUT ROWID;

-- Changes that were carried out, by the kernel's request: one that is sent again after a restart gets the same answer.
CREATE TABLE answered (
    request  INTEGER PRIMARY KEY,
    local    INTEGER NOT NULL                   -- the row made or changed; 0: none
) STRICT;

-- Both sides changed. `kept` says which way it went; open ones wait for `synd conflicts resolve`.
CREATE TABLE conflict (
    id           INTEGER PRIMARY KEY,
    at_ns        INTEGER NOT NULL,
    entity       INTEGER,                       -- the entity both sides changed; NULL: they took one name
    path         TEXT    NOT NULL,              -- where it was, below the mount
    reason       TEXT    NOT NULL,              -- edited, deleted-there, deleted-here, renamed, name-taken
    kept         TEXT    NOT NULL CHECK (kept IN ('both', 'local', 'remote')),
    copy         INTEGER,                       -- local id of the conflict copy
    copy_name    TEXT    NOT NULL DEFAULT '',
    base_version INTEGER NOT NULL DEFAULT 0,
    remote_version INTEGER NOT NULL DEFAULT 0,
    resolved_ns  INTEGER NOT NULL DEFAULT 0     -- 0: open
) STRICT;

-- Bytes and entities that local actions took away, for `synd restore`.
CREATE TABLE recovered (
    id        INTEGER PRIMARY KEY,
    at_ns     INTEGER NOT NULL,
    path      TEXT    NOT NULL,                 -- where it was, below the mount
    reason    TEXT    NOT NULL,                 -- deleted, overwritten, discarded; found: left by a kill, its place is not known
    entity    INTEGER,                          -- in the service's trash can, or whose unsent bytes these were
    file      TEXT    NOT NULL DEFAULT '',      -- name in the recovery folder; empty: no bytes of our own
    size      INTEGER NOT NULL DEFAULT 0
) STRICT;
