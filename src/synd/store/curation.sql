-- What the service last said of a record set's rows that were saved here (docs/SEMANTICS.md, "Record sets").
-- The same rules as in schema.sql. Deleting it loses reports, and leaves grid sessions behind; no edit.

CREATE TABLE record_set (
    entity   INTEGER PRIMARY KEY,
    local    INTEGER NOT NULL,                  -- local row and
    edit     INTEGER NOT NULL,                  -- edit that this is about
    at_ns    INTEGER NOT NULL,
    state    TEXT    NOT NULL
             CHECK (state IN ('valid', 'invalid', 'pending', 'no-schema', 'incomplete', 'refused')),
    version  INTEGER NOT NULL DEFAULT 0,        -- what it has become; 0: nothing was exported
    session  TEXT    NOT NULL DEFAULT '',       -- grid session that is to be deleted; empty: there is none
    report   TEXT                               -- JSON as `@info` shows it; NULL: nothing was heard yet
) STRICT;
