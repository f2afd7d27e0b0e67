-- The sidecar's tables. A transaction on them is the commit point; the visible
-- files are projections that any visitor can make again from these rows.

CREATE TABLE meta (
    name  TEXT PRIMARY KEY,  -- 'incarnation': uuid of this volume's life
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- One row per artifact that was ever committed, deleted, adopted, or read by a
-- named session. A file without a row is generation 0, known by its digest.
CREATE TABLE artifact (
    id         INTEGER PRIMARY KEY,
    path       BLOB NOT NULL UNIQUE,                 -- below the root, '/'-separated
    generation INTEGER NOT NULL CHECK (generation >= 0),
    digest     BLOB NOT NULL CHECK (length(digest) IN (0, 16)),  -- empty: deleted
    size       INTEGER NOT NULL CHECK (size >= 0),   -- bytes of the content
    epoch      INTEGER NOT NULL CHECK (epoch >= 0),  -- grows when ownership is taken away
    boot       TEXT NOT NULL,                        -- boot id at the last change of this row
    checksum   INTEGER NOT NULL                      -- over the columns above, id left out
) STRICT;

-- One row per generation, with its content: in the row, or in objects/ when large.
-- The row of the current generation is never pruned, so the highest seq never is,
-- and a sequence number is never handed out twice.
CREATE TABLE history (
    seq        INTEGER PRIMARY KEY,                  -- order of all commits of the volume
    artifact   INTEGER NOT NULL,                     -- artifact.id
    generation INTEGER NOT NULL,
    base       INTEGER NOT NULL,                     -- the generation it succeeds
    kind       TEXT NOT NULL,                        -- baseline, write, create, delete, rename, foreign ...
    session    TEXT NOT NULL,                        -- who; 'outside' for a foreign edit
    at         INTEGER NOT NULL,                     -- UTC, nanoseconds; for people, and for retention by age
    digest     BLOB NOT NULL,
    size       INTEGER NOT NULL,
    companions INTEGER NOT NULL,                     -- lowest seq of the same commit
    members    INTEGER NOT NULL,                     -- generations that the same commit made
    saw        INTEGER,                              -- of a merge: the generation its author had seen
    object     TEXT,                                 -- name below objects/, or NULL
    content    BLOB,                                 -- last, so that scans skip it
    UNIQUE (artifact, generation)
) STRICT;

-- Installs that are not yet known to be complete, durable and cleaned up. The row
-- of the current generation says what a visitor may finish (or must not).
CREATE TABLE install (
    artifact          INTEGER NOT NULL,
    generation        INTEGER NOT NULL,
    stage             TEXT NOT NULL,                 -- name below staging/
    staged_inode      INTEGER,                       -- NULL: the install removes the file
    staged_mtime_ns   INTEGER,
    previous_inode    INTEGER,                       -- NULL: the name was free
    previous_mtime_ns INTEGER,
    previous_ctime_ns INTEGER,
    previous_size     INTEGER,
    previous_digest   BLOB NOT NULL,                 -- of the generation it displaces
    boot              TEXT NOT NULL,
    started_ns        INTEGER NOT NULL,              -- CLOCK_BOOTTIME
    checksum          INTEGER NOT NULL,              -- over the columns above
    PRIMARY KEY (artifact, generation)
) STRICT, WITHOUT ROWID;

-- What a named session last saw. Process sessions keep theirs in memory.
CREATE TABLE observation (
    session    TEXT NOT NULL,
    artifact   INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    digest     BLOB NOT NULL,
    epoch      INTEGER NOT NULL,
    PRIMARY KEY (session, artifact)
) STRICT, WITHOUT ROWID;

-- The live lease of an artifact, at most one (the key says so).
CREATE TABLE lease (
    artifact   INTEGER PRIMARY KEY,
    session    TEXT NOT NULL,
    hold       TEXT NOT NULL,                        -- leases/<hold>, locked while the holder lives; '' without
    epoch      INTEGER NOT NULL,
    since      INTEGER NOT NULL,                     -- UTC, nanoseconds; for people
    until_ns   INTEGER NOT NULL,                     -- CLOCK_BOOTTIME
    boot       TEXT NOT NULL,
    until      INTEGER NOT NULL                      -- UTC, nanoseconds; for people
) STRICT;

-- What happened and is no generation: lease events, refusals, outside changes of
-- files without a row. Numbered in one order with the history: each number stands
-- in exactly one of the two tables, so a missing one says that it was pruned.
CREATE TABLE event (
    seq        INTEGER PRIMARY KEY,
    at         INTEGER NOT NULL,                     -- UTC, nanoseconds; for people
    kind       TEXT NOT NULL,                        -- lease, release, break, reclaim, refuse, foreign
    session    TEXT NOT NULL,
    path       BLOB NOT NULL,
    generation INTEGER NOT NULL,                     -- the artifact's at that moment
    detail     TEXT NOT NULL                         -- of whom, why
) STRICT;

-- Counters of all processes that ended or flushed, by session.
CREATE TABLE metric (
    session    TEXT NOT NULL,
    name       TEXT NOT NULL,
    label      TEXT NOT NULL,                        -- the reason of a refusal; else ''
    value      REAL NOT NULL,
    at         INTEGER NOT NULL,                     -- UTC, nanoseconds: last change
    PRIMARY KEY (session, name, label)
) STRICT, WITHOUT ROWID;

-- The head that a named session was last told about by a note.
CREATE TABLE told (
    session    TEXT NOT NULL,
    artifact   INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (session, artifact)
) STRICT, WITHOUT ROWID;

-- A feed's tokens name it: numbers begin anew when the sidecar is made anew.
INSERT INTO meta VALUES ('feed', lower(hex(randomblob(4))));
