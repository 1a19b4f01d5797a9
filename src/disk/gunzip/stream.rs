//! gzip: members one behind the other, each a header, packed data, and the checksum and length of what it unpacks to.

use std::fmt;
use std::io;

use miniz_oxide::inflate::TINFLStatus;
use miniz_oxide::inflate::core::inflate_flags::TINFL_FLAG_HAS_MORE_INPUT;
use miniz_oxide::inflate::core::{DecompressorOxide, decompress};

use crate::disk::window::Window;

/// How far packed data may refer back.
const HISTORY_BYTES: usize = 32 << 10;
/// Read at a time.
const INPUT_BYTES: usize = 64 << 10;
/// A header's names and comments are shorter.
const MOST_HEADER_BYTES: usize = 192 << 10;
const LEAST_HEADER_BYTES: usize = 10;
pub(super) const TRAILER_BYTES: u64 = 8;
/// Zeros with which a medium of fixed blocks was filled up are no more.
const MOST_PADDING_BYTES: usize = 64 << 10;

/// Unpacks one member after another, from one offset on.
#[derive(Clone)]
pub(super) struct Decoder {
    inflate: Box<DecompressorOxide>,
    /// What came last, each byte at its offset's remainder.
    history: Box<[u8]>,
    /// What it unpacks next, in the image.
    at: u64,
    /// What it reads next, in the packed bytes.
    packed_at: u64,
    /// Packed bytes from some offset on; a copy of a decoder has none.
    input: Input,
}

#[derive(Default)]
struct Input {
    at: u64,
    bytes: Vec<u8>,
}

impl Clone for Input {
    fn clone(&self) -> Input {
        Input::default()
    }
}

impl fmt::Debug for Decoder {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Decoder").field("at", &self.at).field("packed_at", &self.packed_at).finish()
    }
}

/// What a step gave.
pub(super) enum Step<'d> {
    /// Some bytes; they do not go beyond a multiple of [`HISTORY_BYTES`].
    Unpacked(&'d [u8]),
    /// The end of a member, with its trailer there.
    End(u64),
}

impl Decoder {
    /// At the beginning of an image whose first member's data begins there.
    pub(super) fn new(body: u64) -> Decoder {
        Decoder {
            inflate: Box::default(),
            history: vec![0; HISTORY_BYTES].into_boxed_slice(),
            at: 0,
            packed_at: body,
            input: Input::default(),
        }
    }

    /// Goes on with the next member, whose data begins there.
    pub(super) fn begin_member(&mut self, body: u64) {
        *self.inflate = DecompressorOxide::default();
        self.packed_at = body;
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn packed_at(&self) -> u64 {
        self.packed_at
    }

    /// Unpacks a little more.
    pub(super) fn step(&mut self, packed: &Window) -> io::Result<Step<'_>> {
        let begin = (self.at % HISTORY_BYTES as u64) as usize;
        loop {
            let input = self.input.from(self.packed_at, packed)?;
            if input.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the packed data has no end"));
            }
            let (status, read, made) =
                decompress(&mut self.inflate, input, &mut self.history, begin, TINFL_FLAG_HAS_MORE_INPUT);
            self.packed_at += read as u64;
            self.at += made as u64;
            if made > 0 {
                return Ok(Step::Unpacked(self.history.get(begin..begin + made).unwrap_or(&[])));
            }
            match status {
                TINFLStatus::Done => return Ok(Step::End(self.packed_at)),
                TINFLStatus::NeedsMoreInput if read > 0 => {}
                TINFLStatus::HasMoreOutput if read > 0 => {}
                _ => return Err(broken("the packed data makes no sense")),
            }
        }
    }
}

impl Input {
    fn from(&mut self, at: u64, packed: &Window) -> io::Result<&[u8]> {
        let is_there = |input: &Input| at >= input.at && at < input.at + input.bytes.len() as u64;
        if !is_there(self) {
            *self = Input { at, bytes: packed.read_up_to(at, INPUT_BYTES)? };
        }
        Ok(self.bytes.get((at - self.at) as usize..).unwrap_or(&[]))
    }
}

/// Behind a member whose trailer is there: where the data of the next begins; none if that was the last.
pub(super) fn next_member(packed: &Window, trailer: u64) -> io::Result<Option<u64>> {
    let at = trailer + TRAILER_BYTES;
    let left = packed.len().saturating_sub(at);
    let behind = packed.read_up_to(at, MOST_PADDING_BYTES + 1)?;
    if left <= MOST_PADDING_BYTES as u64 && behind.iter().all(|byte| *byte == 0) {
        return Ok(None);
    }
    match member(packed, at) {
        Ok(body) => Ok(Some(body)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            Err(broken("something else lies behind the packed data"))
        }
        Err(error) => Err(error),
    }
}

/// Where the packed data of the member begins whose header is there.
pub(super) fn member(packed: &Window, at: u64) -> io::Result<u64> {
    const MAGIC: [u8; 3] = [0x1f, 0x8b, 8];
    const HAS_CHECKSUM: u8 = 2;
    const HAS_EXTRA: u8 = 4;
    const HAS_NAME: u8 = 8;
    const HAS_COMMENT: u8 = 16;
    const RESERVED: u8 = 0xe0;
    let head = packed.read_up_to(at, MOST_HEADER_BYTES)?;
    let is_all = (head.len() as u64) == packed.len().saturating_sub(at);
    let too_short = || match is_all {
        true => io::Error::new(io::ErrorKind::UnexpectedEof, "its header is not whole"),
        false => broken("its header is larger than any"),
    };
    if head.iter().zip(MAGIC).any(|(is, wanted)| *is != wanted) {
        return Err(broken("it is not packed with gzip"));
    }
    let flags = *head.get(..LEAST_HEADER_BYTES).and_then(|head| head.get(3)).ok_or_else(too_short)?;
    if flags & RESERVED != 0 {
        return Err(broken("it is packed by something newer than gzip"));
    }
    let mut length = LEAST_HEADER_BYTES;
    if flags & HAS_EXTRA != 0 {
        let count = head.get(length..length + 2).ok_or_else(too_short)?;
        length += 2 + usize::from(u16::from_le_bytes([count[0], count[1]]));
    }
    for _ in 0..(flags & (HAS_NAME | HAS_COMMENT)).count_ones() {
        let text = head.get(length..).ok_or_else(too_short)?;
        length += text.iter().position(|byte| *byte == 0).ok_or_else(too_short)? + 1;
    }
    if flags & HAS_CHECKSUM != 0 {
        length += 2;
    }
    if length >= head.len() {
        return Err(too_short());
    }
    Ok(at + length as u64)
}

pub(super) fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}
