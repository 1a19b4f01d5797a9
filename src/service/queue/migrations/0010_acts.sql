-- What was done at the source of a job (JSON), if anything was: it outlives the job until it is undone.
ALTER TABLE job ADD COLUMN acts TEXT;
CREATE INDEX job_with_acts ON job (job_id) WHERE acts IS NOT NULL;
