//! One pass over a packed image: is it whole, how large is it, and where may unpacking begin anew.

use std::io;
use std::ops::Range;

use flate2::Crc;

use super::stream::{Decoder, Step, TRAILER_BYTES, member, next_member};
use super::{BLOCK_BYTES, stream};
use crate::disk::control::Control;
use crate::disk::window::Window;
use crate::model::error::{Error, Kind, Result};
use crate::model::units::human_size;

/// At first there is a point every so many bytes …
const FIRST_SPACING: u64 = 4 << 20;
/// … as long as there are no more: each takes 45 KiB.
const MOST_POINTS: usize = 1024;
/// Zeros are told of where they are so many …
const LEAST_ZEROS: u64 = 64 << 10;
/// … and no more stretches of them: what is beyond is data.
const MOST_STRETCHES: usize = 1 << 19;
/// Asked for at a time where reading is limited.
const TURN_BYTES: u64 = 1 << 20;
/// What comes in one step is no more.
static ZEROS: [u8; 32 << 10] = [0; 32 << 10];

/// What the pass found.
#[derive(Debug)]
pub(crate) struct Index {
    /// What it unpacks to.
    pub(super) bytes: u64,
    /// Stretches of nothing but zeros, in order.
    pub(super) zeros: Vec<Range<u64>>,
    /// In order; the first is the beginning.
    points: Points,
}

#[derive(Debug)]
struct Points {
    first: Decoder,
    others: Vec<Decoder>,
    spacing: u64,
}

impl Index {
    /// The last one at or before an offset.
    pub(super) fn point_before(&self, at: u64) -> &Decoder {
        let Points { first, others, .. } = &self.points;
        let behind = others.partition_point(|point| point.at() <= at);
        behind.checked_sub(1).and_then(|place| others.get(place)).unwrap_or(first)
    }
}

impl Points {
    /// Keeps a decoder that stands at the beginning of a block, if it is time for one.
    fn offer(&mut self, decoder: &Decoder) {
        let last = self.others.last().map_or(0, Decoder::at);
        if !decoder.at().is_multiple_of(BLOCK_BYTES) || decoder.at() - last < self.spacing {
            return;
        }
        if self.others.len() >= MOST_POINTS {
            let mut number = 0;
            self.others.retain(|_| {
                number += 1;
                number % 2 == 0
            });
            self.spacing *= 2;
            // The last one stays: it had an even number.
            return;
        }
        self.others.push(decoder.clone());
    }
}

pub(super) fn make(packed: &Window, most_bytes: u64, control: &Control) -> Result<Index> {
    let body = member(packed, 0).map_err(|error| told(&error))?;
    let mut decoder = Decoder::new(body);
    let mut points = Points { first: decoder.clone(), others: Vec::new(), spacing: FIRST_SPACING };
    let (mut sum, mut zeros, mut paid) = (Crc::new(), Zeros::default(), 0);
    loop {
        if decoder.packed_at() >= paid {
            control.await_turn(TURN_BYTES, &|| false)?;
            paid = decoder.packed_at() + TURN_BYTES;
        }
        let at = decoder.at();
        let next = match decoder.step(packed).map_err(|error| told(&error))? {
            Step::Unpacked(bytes) => {
                sum.update(bytes);
                zeros.add(at, bytes);
                None
            }
            Step::End(trailer) => {
                check(packed, trailer, &sum)?;
                Some(next_member(packed, trailer).map_err(|error| told(&error))?)
            }
        };
        match next {
            None if decoder.at() > most_bytes => return Err(bomb(most_bytes)),
            None => points.offer(&decoder),
            Some(Some(body)) => {
                decoder.begin_member(body);
                sum = Crc::new();
            }
            Some(None) => break,
        }
    }
    Ok(Index { bytes: decoder.at(), zeros: zeros.found, points })
}

/// Holds what a member unpacked to against what it says of that.
fn check(packed: &Window, trailer: u64, sum: &Crc) -> Result<()> {
    let mut said = [0; TRAILER_BYTES as usize];
    packed.read_exact_at(&mut said, trailer).map_err(|error| told(&error))?;
    let [a, b, c, d, length @ ..] = said;
    if u32::from_le_bytes([a, b, c, d]) != sum.sum() || u32::from_le_bytes(length) != sum.amount() {
        return Err(told(&stream::broken("what it unpacks to does not have the checksum that it says")));
    }
    Ok(())
}

/// Stretches of zeros, as they come.
#[derive(Default)]
struct Zeros {
    found: Vec<Range<u64>>,
    open: Option<u64>,
}

impl Zeros {
    fn add(&mut self, at: u64, bytes: &[u8]) {
        let end = at + bytes.len() as u64;
        if ZEROS.get(..bytes.len()) != Some(bytes) {
            self.open = None;
            return;
        }
        let start = *self.open.get_or_insert(at);
        let may_be_told = end - start >= LEAST_ZEROS && self.found.len() < MOST_STRETCHES;
        match self.found.last_mut() {
            Some(last) if last.start == start => last.end = end,
            _ if may_be_told => self.found.push(start..end),
            _ => {}
        }
    }
}

fn told(error: &io::Error) -> Error {
    let (why, advice) = match error.kind() {
        io::ErrorKind::UnexpectedEof => (
            format!("the packed image is cut off: {error}"),
            "the copy or download was not finished: fetch it again and compare its checksum",
        ),
        io::ErrorKind::InvalidData => {
            (format!("the packed image is damaged: {error}"), "fetch it again, and try it with `gzip -t`")
        }
        _ => {
            (format!("the packed image cannot be read: {error}"), "check the storage that the source lies on")
        }
    };
    Error::new(Kind::Source, why).advice(advice)
}

fn bomb(most_bytes: u64) -> Error {
    let most = human_size(most_bytes);
    Error::new(
        Kind::Source,
        format!("the packed image unpacks to more than {most}, and its disk is said to be smaller"),
    )
    .advice("export the appliance again; or give the disk's size as `bytes` in a manifest, if it is really larger")
    .permanent()
}
