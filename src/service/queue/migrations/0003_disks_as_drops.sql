-- The files of a drop that is a disk (JSON: name and identity of each, the one after which the drop is called first); null for a manifest.
ALTER TABLE dropped ADD COLUMN files TEXT;
