//! Dropped files after their acceptance: which still have to be moved, and what was in them.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rusqlite::params;

use super::db::Db;
use super::rows::{BatchRow, DROP_COLUMNS, DropRow, DroppedFile, FileIdentity};
use crate::model::error::{Error, Result};

/// A disk that was dropped: its files and the two directories between which they are moved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// Its files, the one after which the drop is called first.
    pub files: Vec<DroppedFile>,
    /// Where they lie: the drop directory.
    pub incoming: PathBuf,
    /// Where they will lie while they are worked on.
    pub processing: PathBuf,
}

impl Brought {
    /// Each file's path now, and the one that it will have: one file under the drop's new name, several in a directory of that name.
    pub(super) fn moves(&self, processing_name: &str) -> BTreeMap<PathBuf, PathBuf> {
        let place = self.processing.join(processing_name);
        let to = |file: &DroppedFile| match self.files.len() {
            1 => place.clone(),
            _ => place.join(&file.name),
        };
        self.files.iter().map(|file| (self.incoming.join(&file.name), to(file))).collect()
    }
}

impl Db {
    /// A drop.
    pub fn dropped(&self, drop_id: i64) -> Result<Option<DropRow>> {
        self.first(
            &format!("SELECT {DROP_COLUMNS} FROM dropped WHERE drop_id = ?1"),
            [drop_id],
            DropRow::read,
        )
    }

    /// The bytes that were accepted.
    pub fn drop_bytes(&self, drop_id: i64) -> Result<Vec<u8>> {
        self.first("SELECT bytes FROM dropped WHERE drop_id = ?1", [drop_id], |row| row.get(0))?
            .ok_or_else(|| Error::internal(format!("there is no drop {drop_id} in the queue")))
    }

    /// Drops whose row is durable and whose file has not been moved to `processing/` yet.
    pub fn drops_to_move(&self) -> Result<Vec<DropRow>> {
        self.rows(
            &format!("SELECT {DROP_COLUMNS} FROM dropped WHERE state = 'accepted' ORDER BY drop_id"),
            [],
            DropRow::read,
        )
    }

    /// The drop that was read from exactly this file and is being worked on, if there is one.
    pub fn drop_of_file(&self, name: &str, identity: FileIdentity) -> Result<Option<DropRow>> {
        self.first(
            &format!(
                "SELECT {DROP_COLUMNS} FROM dropped
                 WHERE inode = ?1 AND dev = ?2 AND size = ?3 AND mtime_ns = ?4 AND name = ?5
                     AND state IN ('accepted', 'moved') ORDER BY drop_id DESC LIMIT 1"
            ),
            params![
                identity.inode as i64,
                identity.dev as i64,
                identity.size as i64,
                identity.mtime_ns,
                name
            ],
            DropRow::read,
        )
    }

    /// A retry: the disk of an ended run is to be brought back to `processing/`, where the plans look for it. Answers whether there is one.
    pub fn bring_back(&mut self, batch_key: i64) -> Result<bool> {
        let changed = self.execute(
            "UPDATE dropped SET state = 'accepted', settled_at = NULL
             WHERE drop_id = (SELECT drop_id FROM batch WHERE batch_key = ?1) AND files IS NOT NULL AND state = 'settled'",
            [batch_key],
        )?;
        Ok(changed > 0)
    }

    /// Whether a run's disk is still on its way to `processing/`.
    pub fn awaits_disk(&self, batch: &BatchRow) -> Result<bool> {
        let waiting = self.first(
            "SELECT 1 FROM dropped WHERE drop_id = ?1 AND files IS NOT NULL AND state = 'accepted'",
            [batch.drop_id],
            |_| Ok(()),
        )?;
        Ok(waiting.is_some())
    }

    /// The files of these drops lie in `processing/` under these names, durably.
    pub fn drops_moved(&mut self, moved: &[MovedDrop]) -> Result<()> {
        self.atomically(|db| {
            for drop in moved {
                db.execute(
                    "UPDATE dropped SET state = 'moved', processing_name = ?2, settled_path = NULL, dev = coalesce(?3, dev),
                         inode = coalesce(?4, inode), size = coalesce(?5, size), mtime_ns = coalesce(?6, mtime_ns)
                     WHERE drop_id = ?1 AND state IN ('accepted', 'moved')",
                    params![
                        drop.drop_id,
                        drop.processing_name,
                        drop.identity.map(|file| file.dev as i64),
                        drop.identity.map(|file| file.inode as i64),
                        drop.identity.map(|file| file.size as i64),
                        drop.identity.map(|file| file.mtime_ns),
                    ],
                )?;
            }
            Ok(())
        })
    }
}

/// A drop whose file lies in `processing/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MovedDrop {
    /// Which.
    pub drop_id: i64,
    /// Under which name.
    pub processing_name: String,
    /// Which file it is: another than was accepted, where that had to be written again.
    pub identity: Option<FileIdentity>,
}
