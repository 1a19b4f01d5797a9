-- A file (or a submitted text) as it was accepted. `bytes` is what the jobs work from.
CREATE TABLE dropped (
    drop_id         INTEGER PRIMARY KEY AUTOINCREMENT,
    name            TEXT NOT NULL,
    sha256          TEXT NOT NULL,
    -- Identity of the file; null for what came through the control API.
    dev             INTEGER,
    inode           INTEGER,
    size            INTEGER NOT NULL,
    mtime_ns        INTEGER,
    base_directory  TEXT NOT NULL,
    state           TEXT NOT NULL CHECK (state IN ('accepted', 'moved', 'settled')),
    -- Its name in processing/; null for what came through the control API.
    processing_name TEXT,
    settled_path    TEXT,
    accepted_at     REAL NOT NULL,
    settled_at      REAL,
    bytes           BLOB NOT NULL
) STRICT;
CREATE INDEX dropped_to_move ON dropped (name) WHERE state = 'accepted';
CREATE INDEX dropped_identity ON dropped (inode, dev) WHERE state IN ('accepted', 'moved');
CREATE INDEX dropped_in_processing ON dropped (processing_name) WHERE state IN ('accepted', 'moved');

-- One run of a batch. A batch that continues gets a further run of the same batch_id.
CREATE TABLE batch (
    batch_key         INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_id          TEXT NOT NULL,
    run               INTEGER NOT NULL,
    -- The file's stem when the name was taken from it.
    stem              TEXT,
    content_sha256    TEXT NOT NULL,
    submission        TEXT NOT NULL,
    output_directory  TEXT,
    parallel_limit    INTEGER,
    continue_on_error INTEGER,
    drop_id           INTEGER NOT NULL REFERENCES dropped (drop_id),
    accepted_at       REAL NOT NULL,
    -- Set while every job has ended; taken back by a retry.
    ended_at          REAL,
    outcome           TEXT CHECK (outcome IN ('completed', 'failed', 'cancelled')),
    -- Set when the drop has been moved to processed/ or failed/ and the batch's reports are written.
    settled_at        REAL,
    UNIQUE (batch_id, run)
) STRICT;
CREATE INDEX batch_content ON batch (content_sha256);
CREATE INDEX batch_stem ON batch (stem) WHERE stem IS NOT NULL;
CREATE INDEX batch_drop ON batch (drop_id);
CREATE INDEX batch_unfinished ON batch (batch_key) WHERE ended_at IS NULL;
CREATE INDEX batch_unsettled ON batch (batch_key) WHERE settled_at IS NULL;
CREATE INDEX batch_age ON batch (settled_at) WHERE settled_at IS NOT NULL;

-- One VM of one run of a batch.
CREATE TABLE job (
    job_id              INTEGER PRIMARY KEY AUTOINCREMENT,
    batch_key           INTEGER NOT NULL REFERENCES batch (batch_key) ON DELETE CASCADE,
    vm_id               TEXT NOT NULL,
    vm_name             TEXT NOT NULL,
    state               TEXT NOT NULL CHECK (state IN
                        ('queued', 'running', 'waiting', 'succeeded', 'failed', 'cancelled', 'skipped')),
    waiting_reason      TEXT,
    waiting_detail      TEXT,
    waiting_since       REAL,
    not_before          REAL,
    priority            INTEGER NOT NULL,
    attempt             INTEGER NOT NULL DEFAULT 0,
    failures            INTEGER NOT NULL DEFAULT 0,
    first_failure_at    REAL,
    submitted_at        REAL NOT NULL,
    started_at          REAL,
    completed_at        REAL,
    owner               TEXT,
    lease_until         REAL,
    need_bytes          INTEGER,
    needs_network       INTEGER NOT NULL,
    depends_on          TEXT NOT NULL,
    content_sha256      TEXT NOT NULL,
    output_directory    TEXT NOT NULL,
    outputs             TEXT NOT NULL DEFAULT '{}',
    report              TEXT,
    -- A later job has put its result in the place of this one's.
    replaced_by         INTEGER,
    resumed             INTEGER NOT NULL DEFAULT 0,
    current_stage       TEXT,
    stage_detail        TEXT,
    stage_started_at    REAL,
    stages_completed    TEXT NOT NULL DEFAULT '[]',
    progress_percentage REAL NOT NULL DEFAULT 0,
    partials_removed    INTEGER NOT NULL DEFAULT 0,
    error               TEXT,
    plan                TEXT NOT NULL,
    UNIQUE (batch_key, vm_id),
    CHECK ((state = 'waiting') = (waiting_reason IS NOT NULL)),
    CHECK ((state IN ('succeeded', 'failed', 'cancelled', 'skipped')) = (completed_at IS NOT NULL)),
    CHECK (state <> 'running' OR (owner IS NOT NULL AND lease_until IS NOT NULL))
) STRICT;
CREATE INDEX job_open ON job (priority, job_id) WHERE state IN ('queued', 'running', 'waiting');
CREATE INDEX job_state ON job (state);
CREATE INDEX job_vm ON job (vm_id);
CREATE INDEX job_vm_name ON job (vm_name);
CREATE INDEX job_output ON job (output_directory);
CREATE INDEX job_partials ON job (completed_at) WHERE state = 'failed' AND partials_removed = 0;

-- What happened to a job, for people.
CREATE TABLE event (
    event_id INTEGER PRIMARY KEY,
    job_id   INTEGER NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    at       REAL NOT NULL,
    attempt  INTEGER NOT NULL,
    message  TEXT NOT NULL
) STRICT;
CREATE INDEX event_job ON event (job_id);

-- How many jobs are in each state, so that telling it never reads the history.
CREATE TABLE job_count (
    state TEXT PRIMARY KEY,
    jobs  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
INSERT INTO job_count VALUES
    ('queued', 0), ('running', 0), ('waiting', 0),
    ('succeeded', 0), ('failed', 0), ('cancelled', 0), ('skipped', 0);
CREATE TRIGGER job_counted AFTER INSERT ON job BEGIN
    UPDATE job_count SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER job_recounted AFTER UPDATE OF state ON job WHEN NEW.state <> OLD.state BEGIN
    UPDATE job_count SET jobs = jobs - 1 WHERE state = OLD.state;
    UPDATE job_count SET jobs = jobs + 1 WHERE state = NEW.state;
END;
CREATE TRIGGER job_uncounted AFTER DELETE ON job BEGIN
    UPDATE job_count SET jobs = jobs - 1 WHERE state = OLD.state;
END;

-- Flags that outlive the daemon (paused, draining).
CREATE TABLE kv (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
