//! A file of a host as those read it that know nothing of hosts.
//!
//! Each question costs a way over the network and a process on the host, and disks with snapshots are read in crumbs: what is small is brought with
//! what lies around it, which is most often wanted next. What is not here: bringing it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use super::files::{File, Files};
use crate::disk::{Control, Stored};
use crate::model::error::Result;

/// Less than that is brought with what lies around it.
const BLOCK_BYTES: u64 = 128 << 10;
/// So many blocks of a file are kept: several threads read it at a time.
const MOST_BLOCKS: usize = 32;

/// One of them.
#[derive(Debug)]
pub(super) struct Opened {
    files: Files,
    file: File,
    control: Control,
    /// Those that were brought last, the latest first, by where they begin.
    blocks: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl Opened {
    pub(super) fn new(files: &Files, file: &File, control: &Control) -> Opened {
        let (files, file, control) = (files.clone(), file.clone(), control.clone());
        Opened { files, file, control, blocks: Mutex::default() }
    }

    fn block(&self, begin: u64) -> Result<Arc<[u8]>> {
        let kept = || self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, block)) = kept().iter().find(|(at, _)| *at == begin) {
            return Ok(Arc::clone(block));
        }
        let length = self.file.size.saturating_sub(begin).min(BLOCK_BYTES);
        let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
        self.files.read(&self.file, begin, &mut bytes, &self.control)?;
        let block: Arc<[u8]> = bytes.into();
        let mut blocks = kept();
        blocks.push_front((begin, Arc::clone(&block)));
        blocks.truncate(MOST_BLOCKS);
        Ok(block)
    }
}

impl Stored for Opened {
    fn name(&self) -> String {
        self.files.name(&self.file.place)
    }

    fn size(&self) -> u64 {
        self.file.size
    }

    fn read_at(&self, buffer: &mut [u8], at: u64) -> Result<()> {
        if buffer.len() as u64 >= BLOCK_BYTES {
            return self.files.read(&self.file, at, buffer, &self.control);
        }
        let mut done = 0;
        while done < buffer.len() {
            let place = at + done as u64;
            let within = usize::try_from(place % BLOCK_BYTES).unwrap_or_default();
            let block = self.block(place - within as u64)?;
            let there = block.get(within..).unwrap_or_default();
            let count = there.len().min(buffer.len() - done);
            if count == 0 {
                return Err(self.files.changed(&self.file.place));
            }
            buffer[done..done + count].copy_from_slice(&there[..count]);
            done += count;
        }
        Ok(())
    }
}
