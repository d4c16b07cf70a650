-- Work that outlives a restart, what it made, and what it found of content. The same rules as in schema.sql.
-- {active} stands for the condition made of synd.store.states.ACTIVE.

-- One attempt at a piece of work (docs/adr/0007). A row never runs twice: a retry is a new row, so `id` is
-- the fence. Whoever runs it writes `WHERE id = ? AND state = 'running' AND owner = ?`; no row changed
-- means that it was replaced. States and what may follow what: synd.jobs.model.
CREATE TABLE job (
    id            TEXT PRIMARY KEY,
    kind          TEXT NOT NULL,                -- which handler runs it: prefetch, verify, preprocess …
    subject       TEXT NOT NULL,                -- what it works on, for people
    arguments     TEXT NOT NULL,                -- JSON, for the handler
    workflow_key  TEXT,                         -- what it makes; NULL: shared with nobody
    state         TEXT NOT NULL CHECK (state IN ('pending', 'running', 'completed', 'failed', 'cancelled')),
    priority      INTEGER NOT NULL DEFAULT 20,  -- synd.jobs.model.Priority: the smaller, the sooner
    attempt       INTEGER NOT NULL DEFAULT 1 CHECK (attempt >= 1),
    retry_of      TEXT,                         -- id of the attempt before; that row may be gone
    superseded_by TEXT,                         -- id of the attempt after; NULL: none
    waits         INTEGER NOT NULL DEFAULT 0 CHECK (waits >= 0),  -- while pending: rows of job_after not completed
    created_ns    INTEGER NOT NULL,
    not_before_ns INTEGER NOT NULL DEFAULT 0,   -- a retry waits so long
    started_ns    INTEGER,
    updated_ns    INTEGER NOT NULL,             -- last write to this row
    finished_ns   INTEGER,
    owner         TEXT NOT NULL DEFAULT '',     -- who runs it: host:boot_id:pid:start_time
    lease_until_ns INTEGER NOT NULL DEFAULT 0,  -- while running: past it the job may be replaced
    cancel        INTEGER NOT NULL DEFAULT 0 CHECK (cancel IN (0, 1)),  -- while running: somebody asked for its end
    stage         TEXT NOT NULL DEFAULT '',     -- under way now: fetch, data, index
    stages        TEXT NOT NULL DEFAULT '[]',   -- JSON: stages done, in order, with the keys of their artifacts
    done          INTEGER NOT NULL DEFAULT 0,   -- in `unit`
    total         INTEGER,                      -- NULL: not known yet
    unit          TEXT NOT NULL DEFAULT 'bytes' CHECK (unit IN ('bytes', 'files', 'requests')),
    note          TEXT NOT NULL DEFAULT '',     -- what it does just now
    failure       TEXT,                         -- synd.jobs.failures.Failure; NULL: it did not fail
    problem       TEXT,                         -- JSON problem body of a failure
    result        TEXT                          -- JSON
) STRICT, WITHOUT ROWID;

-- the mutex: INSERT … ON CONFLICT DO NOTHING; WHERE workflow_key = ? AND {active}
CREATE UNIQUE INDEX job_active ON job (workflow_key) WHERE {active};
-- lease: WHERE state = 'pending' AND waits = 0 AND kind = ? ORDER BY priority, created_ns, id
CREATE INDEX job_due ON job (kind, priority, created_ns, id, not_before_ns) WHERE state = 'pending' AND waits = 0;
-- stale scan: WHERE state = 'running' ORDER BY updated_ns; counts by state
CREATE INDEX job_by_update ON job (state, updated_ns);
-- lists: ORDER BY created_ns DESC, id DESC
CREATE INDEX job_by_age ON job (created_ns, id);
-- retention: WHERE finished_ns IS NOT NULL ORDER BY finished_ns DESC
CREATE INDEX job_by_end ON job (finished_ns, id) WHERE finished_ns IS NOT NULL;

-- `job` begins only when `needs` is completed. A successor takes the place of what it replaces. Rows of
-- what completed are removed; those of what failed stay, for a retry to know.
CREATE TABLE job_after (
    job    TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    needs  TEXT NOT NULL REFERENCES job (id) ON DELETE CASCADE,
    PRIMARY KEY (job, needs)
) STRICT, WITHOUT ROWID;

-- dependants: WHERE needs = ?
CREATE INDEX job_after_needs ON job_after (needs, job);

-- One output of preprocessing, or the statement that there is one already. The bytes lie in the cache by
-- their digest; a row whose bytes are gone counts as missing, and costs work, never a right answer.
CREATE TABLE artifact (
    cache_key         TEXT PRIMARY KEY,         -- synd.processors.keys.cache_key
    md5               TEXT    NOT NULL,         -- of the source
    processor         TEXT    NOT NULL,
    processor_version INTEGER NOT NULL,
    kind              TEXT    NOT NULL CHECK (kind IN ('data', 'index')),
    alias_of          TEXT    NOT NULL DEFAULT '',  -- 'source', or the id of the sidecar that serves; '': bytes of our own
    digest            TEXT    NOT NULL,         -- 'sha256:…' of its bytes; 'md5:…' of the source for an alias
    of_digest         TEXT    NOT NULL DEFAULT '',  -- of an index: digest of the data it was built from, or it may not be served
    size              INTEGER NOT NULL,         -- bytes
    records           INTEGER,                  -- NULL: not counted
    suffix            TEXT    NOT NULL DEFAULT '',  -- .bai, .csi, .tbi, .crai, .fai; of data .bam, .gz
    toolchain         TEXT    NOT NULL,         -- programs and libraries with their versions
    content           TEXT    NOT NULL,         -- key of its bytes in the cache; of an alias: of what it stands for
    format            TEXT    NOT NULL DEFAULT '',  -- what the source was found to be
    extra             TEXT    NOT NULL DEFAULT '{}',  -- JSON: further files that belong to it, suffix → [key, bytes]
    job               TEXT    NOT NULL DEFAULT '',  -- who made it; that row may be gone
    created_ns        INTEGER NOT NULL,
    used_ns           INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- the same bytes under another entity: WHERE md5 = ? AND processor = ? AND processor_version = ? AND kind = ?
CREATE INDEX artifact_by_md5 ON artifact (md5, processor, processor_version, kind);
-- which rows hold on to some bytes: WHERE digest = ?
CREATE INDEX artifact_by_digest ON artifact (digest);

-- Content that cannot be processed: a failure of the bytes themselves, remembered until it is old, the
-- processor's version is raised, or somebody asks for another try.
CREATE TABLE refusal (
    md5               TEXT    NOT NULL,
    processor         TEXT    NOT NULL,         -- PROCESSOR/FORMAT: the same bytes may be fine under another name
    processor_version INTEGER NOT NULL,
    failure           TEXT    NOT NULL,         -- synd.jobs.failures.Failure with `of_content`
    message           TEXT    NOT NULL,
    bad_line          INTEGER,                  -- 1-based, of the source
    at_ns             INTEGER NOT NULL,
    PRIMARY KEY (md5, processor, processor_version)
) STRICT, WITHOUT ROWID;
