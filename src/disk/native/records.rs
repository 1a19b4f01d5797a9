//! What the journal of a copy that is finished tells, read once more by who proves its result.
//!
//! What is not here: going on with a copy, and what the frames look like (see [`super::journal`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufReader, Seek, SeekFrom};
use std::path::Path;

use super::frames::Frames;
use super::journal::{PIECES, Record, Subject, counting, decode, is_about};
use crate::sys::fs::open_to_go_on;

/// The records of a journal that is only read, one after the other.
#[derive(Debug)]
pub(super) struct Records {
    frames: Frames<BufReader<File>>,
    ahead: VecDeque<Record>,
    is_shared: bool,
    is_whole: bool,
}

impl Records {
    /// Of a copy of this; `None` if the file tells of something else. As with a copy that goes on, only a file of our own is believed.
    pub(super) fn open(path: &Path, subject: &Subject) -> io::Result<Option<Records>> {
        let mut frames = Frames::of(BufReader::new(open_to_go_on(path)?));
        if !is_about(&mut frames, subject)? {
            return Ok(None);
        }
        let behind = frames.end;
        // Nobody ran on without it: who finished a copy has made all of it durable.
        let counts = counting(&mut frames, None)?;
        let (is_shared, is_whole) =
            counts.map_or((false, false), |counts| (counts.is_shared, counts.is_whole));
        frames.from.seek(SeekFrom::Start(behind))?;
        frames.end = behind;
        Ok(Some(Records { frames, ahead: VecDeque::new(), is_shared, is_whole }))
    }

    /// Whether the target shares what the source held.
    pub(super) fn is_shared(&self) -> bool {
        self.is_shared
    }

    /// Whether nothing held anything but the pieces that are told.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// The next one. They end where the journal makes no sense any more.
    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        while self.ahead.is_empty() {
            let Some(payload) = self.frames.next()? else { return Ok(None) };
            if let Some((&PIECES, records)) = payload.split_first() {
                let Some(records) = decode(records) else { return Ok(None) };
                self.ahead.extend(records);
            }
        }
        Ok(self.ahead.pop_front())
    }
}
