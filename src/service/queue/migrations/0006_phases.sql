-- What a job is in from a moment on, a row for each change: the timeline in its batch's report.
CREATE TABLE phase (
    phase_id       INTEGER PRIMARY KEY,
    job_id         INTEGER NOT NULL REFERENCES job (job_id) ON DELETE CASCADE,
    at             REAL NOT NULL,
    attempt        INTEGER NOT NULL,
    state          TEXT NOT NULL,
    waiting_reason TEXT,
    stage          TEXT
) STRICT;
CREATE INDEX phase_job ON phase (job_id);
CREATE TRIGGER job_phase AFTER UPDATE OF state, waiting_reason, current_stage ON job
    WHEN NEW.state <> OLD.state OR NEW.waiting_reason IS NOT OLD.waiting_reason OR NEW.current_stage IS NOT OLD.current_stage
BEGIN
    INSERT INTO phase (job_id, at, attempt, state, waiting_reason, stage)
        VALUES (NEW.job_id, unixepoch('now', 'subsec'), NEW.attempt, NEW.state, NEW.waiting_reason, NEW.current_stage);
END;
