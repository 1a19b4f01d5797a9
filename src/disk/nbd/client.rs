//! One connection to who serves a disk: what it is agreed on, then a map and bytes.
//!
//! What the other side says is not believed: every number is held against what was asked for, and whatever does not fit ends the
//! connection. What is not here: whose disk it is, and how many connections there are (see [`super::daemon`]).

use std::io::{self, Read, Write};

use super::wire::{self, chunk, command, export, info, option, reply};
use crate::disk::read::{Holds, Range};

/// Nobody has more to say about an option.
const MOST_REPLIES: usize = 64;
const MOST_REPLY_BYTES: u32 = 64 << 10;
/// A map's answer: QEMU's has at most a mebibyte of ranges.
const MOST_MAP_BYTES: u32 = (1 << 20) + 4;
const RANGE_BYTES: u32 = 8;
/// What an error has to say.
const MOST_ERROR_BYTES: u32 = 64 << 10;
/// One request for bytes, …
const MOST_READ_BYTES: usize = 1 << 20;
/// … and one for a map.
const MOST_MAPPED_BYTES: u64 = 1 << 30;

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Trouble {
    /// It cannot read what was asked for, and says so; the connection is as good as before.
    Refused(i32),
    /// There is nobody any more, or nobody who keeps to the protocol.
    Lost(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Trouble {
        Trouble::Lost(error)
    }
}

type Answer<T> = Result<T, Trouble>;

/// An open connection.
#[derive(Debug)]
pub(super) struct Connection<S> {
    stream: S,
    /// What the disk has, in bytes.
    size: u64,
    /// How the map is called here.
    map: u32,
    cookie: u64,
}

impl<S: Read + Write> Connection<S> {
    /// Agrees on the one export that there is.
    pub(super) fn open(mut stream: S) -> io::Result<Connection<S>> {
        let greeting = (wire::u64(&mut stream)?, wire::u64(&mut stream)?, wire::u16(&mut stream)?);
        if (greeting.0, greeting.1) != (wire::GREETING, wire::OPTION)
            || greeting.2 & wire::FIXED_NEWSTYLE == 0
        {
            return Err(wire::garbled("nobody who speaks this protocol is there"));
        }
        let flags = u32::from(greeting.2 & (wire::FIXED_NEWSTYLE | wire::NO_ZEROES));
        stream.write_all(&flags.to_be_bytes())?;
        let mut connection = Connection { stream, size: 0, map: 0, cookie: 0 };
        connection.ask(option::STRUCTURED_REPLY, &[], &mut |_, _| Ok(()))?;
        let mut map = None;
        let name_and_maps: [&[u8]; 4] = [
            &0_u32.to_be_bytes(),
            &1_u32.to_be_bytes(),
            &(wire::ALLOCATION.len() as u32).to_be_bytes(),
            wire::ALLOCATION,
        ];
        connection.ask(option::SET_META_CONTEXT, &name_and_maps.concat(), &mut |kind, mut data| {
            let number = wire::u32(&mut data)?;
            if kind == reply::META_CONTEXT && data == wire::ALLOCATION {
                map = Some(number);
            }
            Ok(())
        })?;
        let mut export = None;
        // No name, and nothing asked for besides.
        connection.ask(option::GO, &[0; 6], &mut |kind, mut data| {
            if kind == reply::INFO && wire::u16(&mut data)? == info::EXPORT {
                export = Some((wire::u64(&mut data)?, wire::u16(&mut data)?));
            }
            Ok(())
        })?;
        let (Some(map), Some((size, flags))) = (map, export) else {
            return Err(wire::garbled("it was not told what is served"));
        };
        if flags & export::READ_ONLY == 0 {
            return Err(wire::garbled("what is served could be written to"));
        }
        (connection.map, connection.size) = (map, size);
        Ok(connection)
    }

    /// Bytes that the guest sees.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// Sends an option and hands over every answer to it up to the last.
    fn ask(
        &mut self,
        option: u32,
        data: &[u8],
        hear: &mut dyn FnMut(u32, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut asked = wire::OPTION.to_be_bytes().to_vec();
        asked.extend([option, data.len() as u32].iter().flat_map(|number| number.to_be_bytes()));
        asked.extend(data);
        self.stream.write_all(&asked)?;
        for _ in 0..MOST_REPLIES {
            let stream = &mut self.stream;
            if wire::u64(stream)? != wire::OPTION_REPLY || wire::u32(stream)? != option {
                return Err(wire::garbled("an answer is none to what was asked"));
            }
            let (kind, length) = (wire::u32(stream)?, wire::u32(stream)?);
            if length > MOST_REPLY_BYTES {
                return Err(wire::garbled("an answer is too long"));
            }
            let mut data = vec![0; length as usize];
            stream.read_exact(&mut data)?;
            match kind {
                reply::ACK => return Ok(()),
                reply::REFUSED.. => {
                    let why = String::from_utf8_lossy(&data);
                    return Err(wire::garbled(&format!("option {option} is refused: {why}")));
                }
                _ => hear(kind, &data)?,
            }
        }
        Err(wire::garbled("an answer does not end"))
    }

    /// Fills the buffer with what lies at an offset; all of it is within the size.
    pub(super) fn read(&mut self, at: u64, buffer: &mut [u8]) -> Answer<()> {
        let mut at = at;
        for piece in buffer.chunks_mut(MOST_READ_BYTES) {
            self.send(command::READ, at, piece.len() as u32)?;
            self.fill(at, piece)?;
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Takes the chunks of one answer, which come in the order of the disk.
    fn fill(&mut self, at: u64, buffer: &mut [u8]) -> Answer<()> {
        let (mut filled, mut refused) = (0, None);
        loop {
            let Head { is_last, kind, length } = self.head()?;
            match kind {
                chunk::NONE if length == 0 && is_last => {}
                chunk::DATA | chunk::HOLE => {
                    let from = wire::u64(&mut self.stream)?;
                    let count = match kind {
                        chunk::HOLE if length == 12 => wire::u32(&mut self.stream)?,
                        chunk::DATA if length > 8 => length - 8,
                        _ => return Err(wire::garbled("an answer has no length that it could have").into()),
                    };
                    let part = buffer.get_mut(filled..).and_then(|rest| rest.get_mut(..count as usize));
                    match part {
                        Some(part) if from == at + filled as u64 && count > 0 => match kind {
                            chunk::HOLE => part.fill(0),
                            _ => self.stream.read_exact(part)?,
                        },
                        _ => return Err(wire::garbled("an answer is about other bytes").into()),
                    }
                    filled += count as usize;
                }
                chunk::ERROR.. if refused.is_none() => refused = Some(self.error(length)?),
                _ => return Err(wire::garbled("an answer is none to a request for bytes").into()),
            }
            if is_last {
                break;
            }
        }
        match refused {
            Some(number) => Err(Trouble::Refused(number)),
            None if filled == buffer.len() => Ok(()),
            None => Err(wire::garbled("an answer ends too early").into()),
        }
    }

    /// What lies from an offset on, as far as it is told: at least one range, in order, without a gap.
    pub(super) fn map(&mut self, at: u64) -> Answer<Vec<Range>> {
        let length = self.size.saturating_sub(at).min(MOST_MAPPED_BYTES);
        self.send(command::BLOCK_STATUS, at, length as u32)?;
        let mut ranges: Vec<Range> = Vec::new();
        let mut refused = None;
        loop {
            let Head { is_last, kind, length } = self.head()?;
            match kind {
                chunk::NONE if length == 0 && is_last => {}
                chunk::BLOCK_STATUS if ranges.is_empty() => ranges = self.ranges(at, length)?,
                chunk::ERROR.. if refused.is_none() => refused = Some(self.error(length)?),
                _ => return Err(wire::garbled("an answer is none to a request for a map").into()),
            }
            if is_last {
                break;
            }
        }
        match refused {
            Some(number) => Err(Trouble::Refused(number)),
            None if ranges.is_empty() => Err(wire::garbled("a map is empty").into()),
            None => Ok(ranges),
        }
    }

    fn ranges(&mut self, at: u64, length: u32) -> Answer<Vec<Range>> {
        let count = length.saturating_sub(4) / RANGE_BYTES;
        if count == 0 || length > MOST_MAP_BYTES || length != 4 + count * RANGE_BYTES {
            return Err(wire::garbled("a map has no length that it could have").into());
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        let mut data = data.as_slice();
        if wire::u32(&mut data)? != self.map {
            return Err(wire::garbled("it is another map than the one that was asked for").into());
        }
        let (mut ranges, mut start) = (Vec::<Range>::new(), at);
        for _ in 0..count {
            let (length, state) = (u64::from(wire::u32(&mut data)?), wire::u32(&mut data)?);
            if length == 0 || start >= self.size {
                return Err(wire::garbled("a map does not fit the disk").into());
            }
            // The last may tell of more than there is.
            let length = length.min(self.size - start);
            let holds = if state & wire::ZERO != 0 { Holds::Zeros } else { Holds::Data };
            match ranges.last_mut() {
                Some(last) if last.holds == holds => last.length += length,
                _ => ranges.push(Range { start, length, holds }),
            }
            start += length;
        }
        Ok(ranges)
    }

    fn send(&mut self, command: u16, at: u64, length: u32) -> io::Result<()> {
        self.cookie += 1;
        let mut request = wire::REQUEST.to_be_bytes().to_vec();
        request.extend([0, command].iter().flat_map(|number: &u16| number.to_be_bytes()));
        request.extend([self.cookie, at].iter().flat_map(|number| number.to_be_bytes()));
        request.extend(length.to_be_bytes());
        self.stream.write_all(&request)
    }

    /// How an answer to the request that was sent last begins, or goes on.
    fn head(&mut self) -> io::Result<Head> {
        let stream = &mut self.stream;
        if wire::u32(stream)? != wire::STRUCTURED_REPLY {
            return Err(wire::garbled("an answer does not begin like one"));
        }
        let (flags, kind) = (wire::u16(stream)?, wire::u16(stream)?);
        if wire::u64(stream)? != self.cookie {
            return Err(wire::garbled("an answer is to another request"));
        }
        Ok(Head { is_last: flags & chunk::DONE != 0, kind, length: wire::u32(stream)? })
    }

    /// The number of an error; what is said about it besides is not for us.
    fn error(&mut self, length: u32) -> io::Result<i32> {
        if !(6..=MOST_ERROR_BYTES).contains(&length) {
            return Err(wire::garbled("an error has no length that it could have"));
        }
        let mut data = vec![0; length as usize];
        self.stream.read_exact(&mut data)?;
        i32::try_from(wire::u32(&mut data.as_slice())?).map_err(|_| wire::garbled("an error has no number"))
    }
}

/// How a part of an answer begins.
struct Head {
    is_last: bool,
    kind: u16,
    length: u32,
}
