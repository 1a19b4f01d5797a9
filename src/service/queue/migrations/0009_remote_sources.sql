-- Which server has the source of a job and who logs in there (JSON), if that is remote: jobs of one login wait together when it is refused.
ALTER TABLE job ADD COLUMN remote TEXT;
