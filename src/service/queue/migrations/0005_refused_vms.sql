-- A VM of a batch whose manifest was refused: it has failed without a plan, and trying it again needs another manifest.
ALTER TABLE job ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
