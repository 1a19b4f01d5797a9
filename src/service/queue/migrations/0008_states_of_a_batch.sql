-- Which states the jobs of a batch are in, without a look at every job.
CREATE INDEX job_of_batch ON job (batch_key, state);
