-- Folders outside the mount whose changes are sent (docs/SEMANTICS.md). Nothing of this is known to the service.

-- One tracked folder. Never nested: no folder holds another, nor the mount, the cache or the state folder.
CREATE TABLE tracked (
    id        INTEGER PRIMARY KEY,
    folder    BLOB    NOT NULL UNIQUE,          -- absolute path, symbolic links resolved
    entity    INTEGER NOT NULL,                 -- the remote folder or project that its content goes to
    device    INTEGER NOT NULL,                 -- st_dev and st_ino of the folder when it was tracked: another
    inode     INTEGER NOT NULL,                 --  folder at the same path is not this one, and nothing is deleted
    since_ns  INTEGER NOT NULL,                 -- when it was tracked
    options   TEXT    NOT NULL DEFAULT '{}'     -- JSON, synd.store.tracked.Options
) STRICT;

-- What was last seen of each file and folder in it, and told. A row that is missing is a thing never told of;
-- a row without its file is a thing to be told as removed, once that is sure (syndd.watch.scan).
CREATE TABLE tracked_file (
    root      INTEGER NOT NULL REFERENCES tracked (id) ON DELETE CASCADE,
    folder    BLOB    NOT NULL,                 -- of its folder: names joined by '/', empty for the top
    name      BLOB    NOT NULL,                 -- bytes as the file system has them
    kind      TEXT    NOT NULL CHECK (kind IN ('file', 'folder')),
    size      INTEGER NOT NULL,                 -- bytes; 0 for folders
    mtime_ns  INTEGER NOT NULL,
    ctime_ns  INTEGER NOT NULL,
    inode     INTEGER NOT NULL,                 -- on the device of the tracked folder
    noted_ns  INTEGER NOT NULL,                 -- by the clock, when these four were read: a file changed within the
                                                --  clock's granularity of it may have changed again unseen
    md5       TEXT,                             -- of the content then; NULL: not read through
    sent      INTEGER NOT NULL CHECK (sent IN (0, 1)),  -- 0: this state has still to be told
    PRIMARY KEY (root, folder, name)
) STRICT, WITHOUT ROWID;
