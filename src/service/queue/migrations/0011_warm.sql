-- Of a job whose VM is migrated while it runs: how, its passes, and whether the last one was asked for (JSON).
ALTER TABLE job ADD COLUMN warm TEXT;
