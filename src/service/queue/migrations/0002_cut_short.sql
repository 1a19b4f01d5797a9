-- The newest attempt was cut short by no fault of the job: the next start goes on under its number.
ALTER TABLE job ADD COLUMN cut_short INTEGER NOT NULL DEFAULT 0;
-- Version 1 told that by counting the attempt down again.
UPDATE job SET attempt = attempt + 1, cut_short = 1
    WHERE state IN ('queued', 'waiting') AND started_at IS NOT NULL AND waiting_reason IS NOT 'retry';
