-- Evaluations and what is submitted to them: what schema 3 of the registry's database adds.

CREATE TABLE evaluation (
  id         INTEGER PRIMARY KEY AUTOINCREMENT,
  name       TEXT NOT NULL UNIQUE,
  project_id INTEGER NOT NULL,          -- the contentSource
  owner_id   INTEGER NOT NULL,
  etag       TEXT NOT NULL,
  created_ns INTEGER NOT NULL,
  body       TEXT NOT NULL,             -- JSON object: description, messages, quota
  acl_etag   TEXT NOT NULL,
  grants     TEXT NOT NULL              -- JSON object: principal id → bits of access.py
) STRICT;
-- GET /entity/{id}/evaluation
CREATE INDEX evaluation_by_project ON evaluation (project_id);

-- One row per submission and its status. `bundle` is the entity as it was submitted: later changes do not reach it.
CREATE TABLE submission (
  id            INTEGER PRIMARY KEY AUTOINCREMENT,
  evaluation_id INTEGER NOT NULL REFERENCES evaluation (id) ON DELETE CASCADE,
  entity_id     INTEGER NOT NULL,
  version       INTEGER NOT NULL,
  handle_id     INTEGER,                -- the submitted bytes, if any
  user_id       INTEGER NOT NULL,
  created_ns    INTEGER NOT NULL,
  body          TEXT NOT NULL,          -- JSON object: name, submitterAlias, teamId, contributors, docker…
  bundle        TEXT NOT NULL,          -- JSON object
  status        TEXT NOT NULL,          -- RECEIVED, SCORED, …
  status_etag   TEXT NOT NULL,
  status_number INTEGER NOT NULL,       -- counts the changes of the status, from 0
  status_ns     INTEGER NOT NULL,
  status_body   TEXT NOT NULL           -- JSON object: submissionAnnotations, canCancel, cancelRequested, score …
) STRICT;
-- Listings of an evaluation, all or by status; whether a submission grants a handle.
CREATE INDEX submission_by_evaluation ON submission (evaluation_id, status, id);
CREATE INDEX submission_by_handle ON submission (handle_id) WHERE handle_id IS NOT NULL;
