-- When the batch may work (JSON: zone, times, what waits for them, what becomes of what runs then); null: at any time.
ALTER TABLE batch ADD COLUMN window TEXT;
