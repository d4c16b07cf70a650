-- JSON schemas, curation tasks and grids: what schema 2 of the registry's database adds to schema.sql.

-- Who may register schemas under a name. The creator administers it.
CREATE TABLE schema_organization (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT NOT NULL UNIQUE COLLATE NOCASE,
  etag       TEXT NOT NULL,             -- of its access list
  grants     TEXT NOT NULL,             -- JSON list of {principalId, accessType}
  created_ns INTEGER NOT NULL,
  created_by INTEGER NOT NULL
) STRICT;
CREATE TABLE json_schema (
  id              INTEGER PRIMARY KEY AUTOINCREMENT,
  organization_id INTEGER NOT NULL REFERENCES schema_organization (id),
  name            TEXT NOT NULL COLLATE NOCASE,
  created_ns      INTEGER NOT NULL,
  created_by      INTEGER NOT NULL,
  UNIQUE (organization_id, name)
) STRICT;
-- Each registration. One without a number is a version too; the schema's bare name means its newest.
CREATE TABLE json_schema_version (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  schema_id  INTEGER NOT NULL REFERENCES json_schema (id) ON DELETE CASCADE,
  semantic   TEXT,                      -- 1.2.3, or NULL
  sha256     TEXT NOT NULL,
  body       TEXT NOT NULL,             -- JSON as registered, $id without the address
  created_ns INTEGER NOT NULL,
  created_by INTEGER NOT NULL,
  UNIQUE (schema_id, semantic)
) STRICT;
-- What is bound to an entity itself; those below inherit it.
CREATE TABLE schema_binding (
  entity_id  INTEGER PRIMARY KEY,
  schema     TEXT NOT NULL,             -- $id as bound: with a number it never moves on
  derived    INTEGER NOT NULL DEFAULT 0 CHECK (derived IN (0, 1)),
  created_ns INTEGER NOT NULL,
  created_by INTEGER NOT NULL
) STRICT;

CREATE TABLE curation_task (
  id          INTEGER PRIMARY KEY AUTOINCREMENT,
  project_id  INTEGER NOT NULL,
  data_type   TEXT NOT NULL,
  etag        TEXT NOT NULL,
  body        TEXT NOT NULL,            -- JSON object: instructions, taskProperties, assigneePrincipalId
  status      TEXT NOT NULL,            -- JSON object: state, executionDetails
  status_etag TEXT NOT NULL,
  created_ns  INTEGER NOT NULL,
  created_by  INTEGER NOT NULL,
  modified_ns INTEGER NOT NULL,
  modified_by INTEGER NOT NULL,
  status_ns   INTEGER NOT NULL,
  status_by   INTEGER NOT NULL,
  UNIQUE (project_id, data_type)
) STRICT;

-- A session of joint editing. Its document is the newest snapshot and the patches stored after it.
CREATE TABLE grid_session (
  id             INTEGER PRIMARY KEY AUTOINCREMENT,
  session_id     TEXT NOT NULL UNIQUE,  -- as the wire spells it
  etag           TEXT NOT NULL,
  started_ns     INTEGER NOT NULL,
  started_by     INTEGER NOT NULL,
  modified_ns    INTEGER NOT NULL,
  owner          INTEGER NOT NULL,
  source_id      INTEGER,               -- record set or view; NULL for an empty grid
  source_version INTEGER,               -- of the record set: whose rows the grid last took or made
  schema         TEXT,                  -- $id that its rows are validated against
  mode           TEXT,                  -- authorizationMode as asked for
  columns        TEXT NOT NULL,         -- JSON object: column name → columnType
  last_client    INTEGER NOT NULL,      -- newest replica id of a client; counts up
  last_service   INTEGER NOT NULL,      -- newest replica id of the service; counts down
  unvalidated    INTEGER NOT NULL DEFAULT 0 CHECK (unvalidated IN (0, 1))
) STRICT;
CREATE TABLE grid_replica (
  grid_id    INTEGER NOT NULL REFERENCES grid_session (id) ON DELETE CASCADE,
  replica_id INTEGER NOT NULL,
  created_ns INTEGER NOT NULL,
  created_by INTEGER NOT NULL,
  PRIMARY KEY (grid_id, replica_id)
) STRICT, WITHOUT ROWID;
-- Patches in the order of their arrival, compact JSON. (time, sid) is the id of the first operation.
CREATE TABLE grid_patch (
  id      INTEGER PRIMARY KEY AUTOINCREMENT,
  grid_id INTEGER NOT NULL REFERENCES grid_session (id) ON DELETE CASCADE,
  time    INTEGER NOT NULL,
  sid     INTEGER NOT NULL,
  body    TEXT NOT NULL,
  UNIQUE (grid_id, time, sid)
) STRICT;
-- The newest snapshot of a grid; its bytes are a blob.
CREATE TABLE grid_snapshot (
  grid_id    INTEGER PRIMARY KEY REFERENCES grid_session (id) ON DELETE CASCADE,
  md5        TEXT NOT NULL,
  last_patch INTEGER NOT NULL,          -- grid_patch.id of the newest patch inside
  created_ns INTEGER NOT NULL
) STRICT;
