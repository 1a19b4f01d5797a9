//! The frames of a journal: payloads that are whole or not there.
//!
//! ```text
//!   length (4) │ hash of the payload (8), seeded with the frame's place │ payload
//! ```
//!
//! What is not here: what a payload tells (see [`super::journal`]).

use std::io::{self, Read};

use twox_hash::XxHash3_64;

pub(super) const HEAD_BYTES: usize = 12;
/// A frame tells of some dozen MiB: no sound one has a larger payload, however small its pieces are.
pub(super) const MOST_BYTES: usize = 4 << 20;

/// A payload as it lies in a journal, at this place.
pub(super) fn frame(payload: &[u8], at: u64) -> io::Result<Vec<u8>> {
    let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len());
    frame.extend(length.to_le_bytes());
    frame.extend(XxHash3_64::oneshot_with_seed(at, payload).to_le_bytes());
    frame.extend(payload);
    Ok(frame)
}

/// Payload after payload, until one is not whole.
#[derive(Debug)]
pub(super) struct Frames<R> {
    pub(super) from: R,
    /// Where the last sound one ends.
    pub(super) end: u64,
}

impl<R: Read> Frames<R> {
    /// From the first one on.
    pub(super) fn of(from: R) -> Frames<R> {
        Frames { from, end: 0 }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let Some(head) = self.take(HEAD_BYTES)? else { return Ok(None) };
        let (length, hash) = head.split_at(4);
        let length = length.try_into().map(u32::from_le_bytes).map_err(io::Error::other)? as usize;
        let hash = hash.try_into().map(u64::from_le_bytes).map_err(io::Error::other)?;
        if length > MOST_BYTES {
            return Ok(None);
        }
        let Some(payload) = self.take(length)? else { return Ok(None) };
        if XxHash3_64::oneshot_with_seed(self.end, &payload) != hash {
            return Ok(None);
        }
        self.end += (HEAD_BYTES + length) as u64;
        Ok(Some(payload))
    }

    fn take(&mut self, count: usize) -> io::Result<Option<Vec<u8>>> {
        let mut bytes = Vec::new();
        (&mut self.from).take(count as u64).read_to_end(&mut bytes)?;
        Ok((bytes.len() == count).then_some(bytes))
    }
}
