//! The checksum of a stream, made beside it: who takes in what a server sends would otherwise be busy with that for as long as with all else.
//!
//! What is not here: what a server says that it has sent.

use std::sync::mpsc::{self, SyncSender};
use std::thread::{self, JoinHandle};

use hyper::body::Bytes;
use sha1::{Digest as _, Sha1};

use crate::model::error::{Error, Result};

/// So many pieces may wait for it; then what sends them waits, too.
const MOST_WAITING: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Tally {
    pieces: SyncSender<Bytes>,
    hand: JoinHandle<Sha1>,
    bytes: u64,
}

/// What a stream comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) bytes: u64,
    /// In hexadecimal.
    pub(super) sha1: String,
}

impl Tally {
    pub(super) fn begin() -> Result<Tally> {
        let (pieces, come) = mpsc::sync_channel::<Bytes>(MOST_WAITING);
        let work = move || come.iter().fold(Sha1::new(), |digest, piece| digest.chain_update(&piece));
        let hand = thread::Builder::new().name("tally".to_owned()).spawn(work);
        let hand = hand.map_err(|error| Error::internal(format!("a thread cannot begin: {error}")))?;
        Ok(Tally { pieces, hand, bytes: 0 })
    }

    /// What has come next.
    pub(super) fn add(&mut self, piece: Bytes) -> Result<()> {
        self.bytes += piece.len() as u64;
        self.pieces.send(piece).map_err(|_| ended_badly())
    }

    /// All has come.
    pub(super) fn total(self) -> Result<Total> {
        drop(self.pieces);
        let digest = self.hand.join().map_err(|_| ended_badly())?.finalize();
        Ok(Total { bytes: self.bytes, sha1: digest.iter().map(|byte| format!("{byte:02x}")).collect() })
    }
}

fn ended_badly() -> Error {
    Error::internal("what counts a stream ended badly")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_comes_to_what_its_pieces_are_in_their_order() {
        let mut tally = Tally::begin().unwrap();
        for piece in ["a", "", "bc"].iter().cycle().take(3 * 200) {
            tally.add(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        let whole = Sha1::digest("abc".repeat(200));
        let sha1 = whole.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(tally.total().unwrap(), Total { bytes: 600, sha1 });
    }
}
