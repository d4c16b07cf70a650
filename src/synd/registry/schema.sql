-- The registry's database, newest form. Times are UTC nanoseconds since 1970 (`_ns`); the service shows
-- milliseconds. Booleans are 0/1. Principals are user, team or special-group numbers.
-- Two processes may write at once (a running server and `seed`): every write is a short BEGIN IMMEDIATE.

-- Facts about the file itself: schema version, secret of presigned URLs (hex), default user.
CREATE TABLE meta (
  key   TEXT PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per person. `is_admin` may use /admin and create users; it grants nothing on entities.
CREATE TABLE user (
  id         INTEGER PRIMARY KEY,
  name       TEXT NOT NULL UNIQUE,
  is_admin   INTEGER NOT NULL DEFAULT 0 CHECK (is_admin IN (0, 1)),
  etag       TEXT NOT NULL,
  created_ns INTEGER NOT NULL
) STRICT;

-- Personal access tokens. Only the sha256 of a token is kept; the text is shown once.
CREATE TABLE token (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  sha256     TEXT NOT NULL UNIQUE,
  user_id    INTEGER NOT NULL REFERENCES user (id),
  name       TEXT NOT NULL,
  scopes     TEXT NOT NULL,             -- words, comma separated: view,download,modify,authorize
  created_ns INTEGER NOT NULL,
  UNIQUE (user_id, name)
) STRICT;

-- One row per entity, whatever its kind. Current-version facts are repeated here so that a listing reads
-- one table; `entities.py` keeps them equal to the newest row of entity_version in the same transaction.
-- A trashed entity is a child of the trash (id 1681355) under its own id as name; its descendants stay where
-- they are, so being in the trash, like having a benefactor, is found by walking up (at most 50 steps).
-- AUTOINCREMENT: an id is never used twice.
CREATE TABLE entity (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  parent_id       INTEGER,              -- NULL only for the root (4489) and the trash
  name            TEXT NOT NULL,        -- compared byte by byte: names are case-sensitive
  kind            TEXT NOT NULL,        -- project, folder, file, … (kinds.py)
  etag            TEXT NOT NULL,
  created_ns      INTEGER NOT NULL,
  created_by      INTEGER NOT NULL,
  modified_ns     INTEGER NOT NULL,     -- repeats entity_version.modified_ns of current_version
  modified_by     INTEGER NOT NULL,
  current_version INTEGER NOT NULL,
  max_version     INTEGER NOT NULL,     -- highest number ever used: numbers are not recycled
  size            INTEGER NOT NULL DEFAULT 0,  -- bytes of the current file handle; 0 without one
  alias           TEXT,                 -- projects only
  has_acl         INTEGER NOT NULL DEFAULT 0 CHECK (has_acl IN (0, 1)),
  unmet_terms     INTEGER NOT NULL DEFAULT 0 CHECK (unmet_terms IN (0, 1)),
  trashed_ns      INTEGER,              -- the four below: set only on the entity that was deleted
  trashed_by      INTEGER,
  trashed_parent  INTEGER,
  trashed_name    TEXT
) STRICT;

-- Name look-up, and listing by NAME.
CREATE UNIQUE INDEX entity_by_name ON entity (parent_id, name);
-- Listing by CREATED_ON and MODIFIED_ON; the id breaks ties, so a page can start after a known row.
CREATE INDEX entity_by_created ON entity (parent_id, created_ns, id);
CREATE INDEX entity_by_modified ON entity (parent_id, modified_ns, id);
-- Listing a few folders among a million files.
CREATE INDEX entity_by_kind ON entity (parent_id, kind);
-- "Has this container children with an ACL of their own?" Almost always empty.
CREATE INDEX entity_own_acl ON entity (parent_id) WHERE has_acl = 1;
-- GET /entity/alias/{alias}
CREATE UNIQUE INDEX entity_by_alias ON entity (alias) WHERE alias IS NOT NULL;

-- Children per container and kind, and the sum of their sizes: a count must not cost a scan.
-- Kept by the triggers below, never by hand.
CREATE TABLE child_count (
  parent_id INTEGER NOT NULL,
  kind      TEXT NOT NULL,
  n         INTEGER NOT NULL,
  bytes     INTEGER NOT NULL,
  PRIMARY KEY (parent_id, kind)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER entity_counted AFTER INSERT ON entity WHEN new.parent_id IS NOT NULL BEGIN
  INSERT INTO child_count VALUES (new.parent_id, new.kind, 1, new.size)
  ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + new.size;
END;
CREATE TRIGGER entity_uncounted AFTER DELETE ON entity WHEN old.parent_id IS NOT NULL BEGIN
  UPDATE child_count SET n = n - 1, bytes = bytes - old.size WHERE parent_id = old.parent_id AND kind = old.kind;
END;
CREATE TRIGGER entity_recounted AFTER UPDATE OF parent_id, kind, size ON entity
WHEN old.parent_id IS NOT new.parent_id OR old.size <> new.size OR old.kind <> new.kind BEGIN
  UPDATE child_count SET n = n - 1, bytes = bytes - old.size WHERE parent_id = old.parent_id AND kind = old.kind;
  INSERT INTO child_count VALUES (new.parent_id, new.kind, 1, new.size)
  ON CONFLICT DO UPDATE SET n = n + 1, bytes = bytes + new.size;
END;

-- The history: what an entity held in each version. Kinds without versions have exactly number 1.
CREATE TABLE entity_version (
  entity_id   INTEGER NOT NULL,
  number      INTEGER NOT NULL,
  label       TEXT NOT NULL COLLATE NOCASE,
  comment     TEXT,
  modified_ns INTEGER NOT NULL,
  modified_by INTEGER NOT NULL,
  handle_id   INTEGER,                  -- files and record sets: their bytes
  props       TEXT,                     -- JSON object: description, columnIds, linksTo, … (kinds.py); NULL is {}
  annotations TEXT,                     -- JSON object as annotations2 spells it; NULL is {}
  activity_id INTEGER,
  PRIMARY KEY (entity_id, number),
  UNIQUE (entity_id, label)
) STRICT, WITHOUT ROWID;
-- Whether an association grants a handle; entities by md5; the versions an activity generated.
CREATE INDEX version_by_handle ON entity_version (handle_id) WHERE handle_id IS NOT NULL;
CREATE INDEX version_by_activity ON entity_version (activity_id) WHERE activity_id IS NOT NULL;

-- Remote file handles: immutable. Numbers start high, so that a client's cache shared with production
-- Synapse cannot mix them up. Bytes of S3FileHandle lie in blobs/ under their md5.
CREATE TABLE file_handle (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  type         TEXT NOT NULL,           -- last word of the concreteType: S3FileHandle, ExternalFileHandle, …
  md5          TEXT,                    -- NULL: unknown (external)
  size         INTEGER,                 -- bytes; NULL: unknown (external)
  name         TEXT NOT NULL,
  content_type TEXT NOT NULL,
  location_id  INTEGER,
  created_by   INTEGER NOT NULL,
  created_ns   INTEGER NOT NULL,
  etag         TEXT NOT NULL,
  extra        TEXT                     -- JSON object of type-specific properties (externalURL, …); NULL is {}
) STRICT;
-- GET /entity/md5/{md5}
CREATE INDEX handle_by_md5 ON file_handle (md5) WHERE md5 IS NOT NULL;

-- Own access lists. An entity without one inherits from the nearest ancestor that has one.
CREATE TABLE acl (
  entity_id  INTEGER PRIMARY KEY,
  etag       TEXT NOT NULL,
  created_ns INTEGER NOT NULL
) STRICT;
CREATE TABLE acl_grant (
  entity_id INTEGER NOT NULL REFERENCES acl (entity_id) ON DELETE CASCADE,
  principal INTEGER NOT NULL,
  access    INTEGER NOT NULL,           -- bit set, access.py: 1 READ, 2 DOWNLOAD, …
  PRIMARY KEY (entity_id, principal)
) STRICT, WITHOUT ROWID;

-- Multipart uploads under way or done; parts lie in uploads/<id>/.
CREATE TABLE multipart (
  id           INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id      INTEGER NOT NULL,
  request_hash TEXT,                    -- names equal requests of one user; NULL once forgotten by forceRestart
  request      TEXT NOT NULL,           -- JSON
  part_size    INTEGER NOT NULL,
  parts        TEXT NOT NULL,           -- one sign per part: 0 missing, 1 added
  state        TEXT NOT NULL CHECK (state IN ('UPLOADING', 'COMPLETED')),
  handle_id    INTEGER,                 -- result, once completed
  started_ns   INTEGER NOT NULL,
  updated_ns   INTEGER NOT NULL,
  UNIQUE (user_id, request_hash)
) STRICT;
CREATE TABLE multipart_part (
  upload_id INTEGER NOT NULL REFERENCES multipart (id) ON DELETE CASCADE,
  number    INTEGER NOT NULL,
  md5       TEXT NOT NULL,
  PRIMARY KEY (upload_id, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE activity (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  etag        TEXT NOT NULL,
  created_ns  INTEGER NOT NULL,
  created_by  INTEGER NOT NULL,
  modified_ns INTEGER NOT NULL,
  modified_by INTEGER NOT NULL,
  body        TEXT NOT NULL             -- JSON object: name, description, used
) STRICT;

-- Asynchronous jobs. A job found PROCESSING at start-up was cut off and becomes FAILED.
CREATE TABLE job (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  user_id    INTEGER NOT NULL,
  state      TEXT NOT NULL CHECK (state IN ('PROCESSING', 'COMPLETE', 'FAILED')),
  request    TEXT NOT NULL,             -- JSON
  response   TEXT,                      -- JSON, when complete
  status     INTEGER,                   -- HTTP status of the failure
  reason     TEXT,
  started_ns INTEGER NOT NULL,
  changed_ns INTEGER NOT NULL
) STRICT;

-- Column models: immutable and shared. `hash` names equal content.
CREATE TABLE column_model (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  hash TEXT NOT NULL UNIQUE,
  name TEXT NOT NULL,
  body TEXT NOT NULL                    -- JSON object without id
) STRICT;

-- Rows of TableEntities. Cells are keyed by column id, so a schema change touches no row.
CREATE TABLE table_state (
  table_id     INTEGER PRIMARY KEY,
  etag         TEXT NOT NULL,           -- of the last change set
  last_row     INTEGER NOT NULL,        -- highest row id ever used
  row_version  INTEGER NOT NULL,        -- number of the last change set
  changed_ns   INTEGER NOT NULL
) STRICT;
CREATE TABLE table_row (
  table_id INTEGER NOT NULL,
  row_id   INTEGER NOT NULL,
  version  INTEGER NOT NULL,
  cells    TEXT NOT NULL,               -- JSON object: column id → JSON value of the column's type
  PRIMARY KEY (table_id, row_id)
) STRICT, WITHOUT ROWID;
-- Frozen rows of a table version made by a snapshot. A view's snapshot has cells by column id too, and row ids are entities.
CREATE TABLE table_snapshot (
  table_id INTEGER NOT NULL,
  number   INTEGER NOT NULL,            -- the entity version
  row_id   INTEGER NOT NULL,
  version  INTEGER NOT NULL,
  cells    TEXT NOT NULL,
  PRIMARY KEY (table_id, number, row_id)
) STRICT, WITHOUT ROWID;

-- Wiki pages, newest state, and their history.
CREATE TABLE wiki_page (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  owner_type TEXT NOT NULL,             -- entity, evaluation, access_requirement
  owner_id   INTEGER NOT NULL,
  parent_id  INTEGER,                   -- NULL: the owner's root page
  etag       TEXT NOT NULL,
  version    INTEGER NOT NULL,
  created_ns INTEGER NOT NULL,
  created_by INTEGER NOT NULL
) STRICT;
CREATE INDEX wiki_by_owner ON wiki_page (owner_type, owner_id);
CREATE UNIQUE INDEX wiki_one_root ON wiki_page (owner_type, owner_id) WHERE parent_id IS NULL;
CREATE TABLE wiki_version (
  page_id     INTEGER NOT NULL REFERENCES wiki_page (id) ON DELETE CASCADE,
  number      INTEGER NOT NULL,         -- from 0, as the service counts
  title       TEXT,
  markdown_id INTEGER,                  -- file handle of the gzipped Markdown
  attachments TEXT NOT NULL,            -- JSON list of file handle ids
  modified_ns INTEGER NOT NULL,
  modified_by INTEGER NOT NULL,
  PRIMARY KEY (page_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE wiki_order (
  owner_type TEXT NOT NULL,
  owner_id   INTEGER NOT NULL,
  etag       TEXT NOT NULL,
  ids        TEXT NOT NULL,             -- JSON list
  PRIMARY KEY (owner_type, owner_id)
) STRICT, WITHOUT ROWID;

-- Upload settings of projects (and other kinds of settings, kept as given).
CREATE TABLE project_setting (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id INTEGER NOT NULL,
  type       TEXT NOT NULL,             -- upload, …
  etag       TEXT NOT NULL,
  body       TEXT NOT NULL,
  UNIQUE (project_id, type)
) STRICT;
CREATE TABLE storage_location (
  id   INTEGER PRIMARY KEY AUTOINCREMENT,
  body TEXT NOT NULL
) STRICT;
CREATE TABLE favorite (
  user_id    INTEGER NOT NULL,
  entity_id  INTEGER NOT NULL,
  created_ns INTEGER NOT NULL,
  PRIMARY KEY (user_id, entity_id)
) STRICT, WITHOUT ROWID;
