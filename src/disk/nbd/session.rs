//! One client of a disk that is served: how it is agreed what is served, then its requests, one after the other.
//!
//! Whoever does not keep to the protocol loses the connection; nothing that a client says makes this read outside of the disk, or keep more
//! than one request in memory. What is not here: where clients come from (see [`super::serve`]).

use std::io::{self, Read, Write};

use super::wire::{self, chunk, command, errno, export, info, option, reply};
use crate::disk::read::{Holds, Reader, Room};

/// A client that goes on asking what could be done never gets to anything.
const MOST_OPTIONS: usize = 64;
/// The name of an export and of a few maps need no more.
const MOST_OPTION_BYTES: u32 = 16 << 10;
/// One request.
const MOST_BYTES: u32 = 32 << 20;
/// Long answers are read and sent in pieces of so much.
const PIECE_BYTES: usize = 1 << 20;
/// What is best asked for at a time: the pieces of most images are this large, or some of these.
const PREFERRED_BYTES: u32 = 64 << 10;
/// Ranges in one answer; the client asks again for what is behind them.
const MOST_RANGES: usize = 4096;
/// How the one map is called during a connection.
const MAP: u32 = 1;

const EXPORT_FLAGS: u16 =
    export::HAS_FLAGS | export::READ_ONLY | export::FLUSHES | export::IN_ONE_PIECE | export::MANY_CONNECTIONS;

/// Serves one client until it goes, or does not keep to the protocol.
pub(super) fn converse<S: Read + Write>(stream: &mut S, disk: &dyn Reader) -> io::Result<()> {
    let Some(terms) = agree(stream, disk.size())? else { return Ok(()) };
    let mut session = Session { stream, disk, terms, room: Room::default(), piece: Vec::new() };
    while session.answer()? {}
    Ok(())
}

/// What was agreed on.
#[derive(Debug, Clone, Copy, Default)]
struct Terms {
    /// Answers come in chunks that say what they are.
    structured: bool,
    /// The client knows the map.
    maps: bool,
}

/// `None`: the client has gone.
fn agree<S: Read + Write>(stream: &mut S, size: u64) -> io::Result<Option<Terms>> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend(wire::GREETING.to_be_bytes());
    greeting.extend(wire::OPTION.to_be_bytes());
    greeting.extend((wire::FIXED_NEWSTYLE | wire::NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting)?;
    let flags = wire::u32(stream)?;
    if flags & u32::from(wire::FIXED_NEWSTYLE) == 0 {
        return Err(wire::garbled("the client speaks another version of the protocol"));
    }
    let mut terms = Terms::default();
    for _ in 0..MOST_OPTIONS {
        if wire::u64(stream)? != wire::OPTION {
            return Err(wire::garbled("an option does not begin like one"));
        }
        let (wanted, length) = (wire::u32(stream)?, wire::u32(stream)?);
        if length > MOST_OPTION_BYTES {
            return Err(wire::garbled("an option is too long"));
        }
        let mut data = vec![0; length as usize];
        stream.read_exact(&mut data)?;
        let mut say = |kind, data: &[u8]| tell(stream, wanted, kind, data);
        match wanted {
            option::EXPORT_NAME if data.is_empty() => {
                let mut told = [size.to_be_bytes().as_slice(), &EXPORT_FLAGS.to_be_bytes()].concat();
                if flags & u32::from(wire::NO_ZEROES) == 0 {
                    told.extend([0; 124]);
                }
                stream.write_all(&told)?;
                return Ok(Some(terms));
            }
            // There is no answer that would refuse it.
            option::EXPORT_NAME => return Err(wire::garbled("there is no export of this name")),
            option::ABORT => {
                say(reply::ACK, &[])?;
                return Ok(None);
            }
            option::STRUCTURED_REPLY if data.is_empty() => {
                terms.structured = true;
                say(reply::ACK, &[])?;
            }
            option::SET_META_CONTEXT if terms.structured => match wants_map(&data) {
                Some(wanted) => {
                    terms.maps = wanted;
                    if wanted {
                        say(reply::META_CONTEXT, &[&MAP.to_be_bytes(), wire::ALLOCATION].concat())?;
                    }
                    say(reply::ACK, &[])?;
                }
                None => say(reply::INVALID, &[])?,
            },
            option::INFO | option::GO => match text(&mut data.as_slice()) {
                Some([]) => {
                    let mut shown = info::EXPORT.to_be_bytes().to_vec();
                    shown.extend(size.to_be_bytes());
                    shown.extend(EXPORT_FLAGS.to_be_bytes());
                    say(reply::INFO, &shown)?;
                    let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
                    sizes.extend([1, PREFERRED_BYTES, MOST_BYTES].iter().flat_map(|size| size.to_be_bytes()));
                    say(reply::INFO, &sizes)?;
                    say(reply::ACK, &[])?;
                    if wanted == option::GO {
                        return Ok(Some(terms));
                    }
                }
                Some(_) => say(reply::UNKNOWN, b"there is one disk, without a name")?,
                None => say(reply::INVALID, &[])?,
            },
            option::STRUCTURED_REPLY | option::SET_META_CONTEXT => say(reply::INVALID, &[])?,
            _ => say(reply::UNSUPPORTED, b"this disk is served to read it, and that is all")?,
        }
    }
    Err(wire::garbled("the client asks for one thing after the other"))
}

fn tell(stream: &mut impl Write, option: u32, kind: u32, data: &[u8]) -> io::Result<()> {
    let mut told = wire::OPTION_REPLY.to_be_bytes().to_vec();
    told.extend([option, kind, data.len() as u32].iter().flat_map(|number| number.to_be_bytes()));
    told.extend(data);
    stream.write_all(&told)
}

/// Whether the one map is among those that are asked for; `None` where the question makes no sense.
fn wants_map(mut data: &[u8]) -> Option<bool> {
    if !text(&mut data)?.is_empty() {
        return None;
    }
    let mut wanted = false;
    for _ in 0..number(&mut data)? {
        wanted |= text(&mut data)? == wire::ALLOCATION;
    }
    Some(wanted)
}

fn number(data: &mut &[u8]) -> Option<u32> {
    let (bytes, rest) = data.split_first_chunk()?;
    *data = rest;
    Some(u32::from_be_bytes(*bytes))
}

fn text<'d>(data: &mut &'d [u8]) -> Option<&'d [u8]> {
    let length = number(data)?;
    let (text, rest) = data.split_at_checked(length as usize)?;
    *data = rest;
    Some(text)
}

/// What a client wants.
#[derive(Debug, Clone, Copy)]
struct Request {
    flags: u16,
    command: u16,
    cookie: u64,
    at: u64,
    length: u32,
}

impl Request {
    fn read(stream: &mut impl Read) -> io::Result<Request> {
        if wire::u32(stream)? != wire::REQUEST {
            return Err(wire::garbled("a request does not begin like one"));
        }
        Ok(Request {
            flags: wire::u16(stream)?,
            command: wire::u16(stream)?,
            cookie: wire::u64(stream)?,
            at: wire::u64(stream)?,
            length: wire::u32(stream)?,
        })
    }

    /// Where it ends, if all of it lies within the disk.
    fn end(&self, size: u64) -> Option<u64> {
        let end = self.at.checked_add(u64::from(self.length))?;
        (self.length > 0 && end <= size).then_some(end)
    }
}

struct Session<'a, S> {
    stream: &'a mut S,
    disk: &'a dyn Reader,
    terms: Terms,
    room: Room,
    piece: Vec<u8>,
}

impl<S: Read + Write> Session<'_, S> {
    /// One request; `false`: it was the last.
    fn answer(&mut self) -> io::Result<bool> {
        let request = Request::read(self.stream)?;
        match request.command {
            command::READ => self.read(&request)?,
            command::BLOCK_STATUS if self.terms.maps => self.map(&request)?,
            command::FLUSH => self.done(&request)?,
            command::DISCONNECT => return Ok(false),
            command::WRITE => {
                if request.length > MOST_BYTES {
                    return Err(wire::garbled("a client writes more at once than anybody may"));
                }
                // What comes with it has to be got out of the way.
                io::copy(&mut self.stream.take(u64::from(request.length)), &mut io::sink())?;
                self.refuse(&request, errno::NOT_PERMITTED)?;
            }
            command::TRIM | command::WRITE_ZEROES => self.refuse(&request, errno::NOT_PERMITTED)?,
            _ => self.refuse(&request, errno::INVALID)?,
        }
        Ok(true)
    }

    fn read(&mut self, request: &Request) -> io::Result<()> {
        if request.end(self.disk.size()).is_none() || request.length > MOST_BYTES {
            return self.refuse(request, errno::INVALID);
        }
        let is_whole = !self.terms.structured || request.flags & command::IN_ONE_PIECE != 0;
        let length = request.length as usize;
        let step = if is_whole { length } else { PIECE_BYTES };
        for from in (0..length).step_by(step) {
            let (at, count) = (request.at + from as u64, step.min(length - from));
            self.piece.resize(count, 0);
            if let Err(error) = self.disk.read(at, &mut self.piece, &mut self.room) {
                tracing::warn!(%error, at, "what is served cannot be read");
                return self.refuse(request, errno::IO);
            }
            let head = if self.terms.structured {
                let is_last = from + count == length;
                let mut head = chunk_head(request, is_last, chunk::DATA, 8 + count);
                head.extend(at.to_be_bytes());
                head
            } else {
                simple_head(request, 0)
            };
            self.stream.write_all(&head)?;
            self.stream.write_all(&self.piece)?;
        }
        Ok(())
    }

    fn map(&mut self, request: &Request) -> io::Result<()> {
        let Some(end) = request.end(self.disk.size()) else { return self.refuse(request, errno::INVALID) };
        let most = if request.flags & command::ONE_RANGE == 0 { MOST_RANGES } else { 1 };
        let mut told: Vec<(u64, u32)> = Vec::new();
        let mut at = request.at;
        while at < end {
            let range = match self.disk.next_range(at, &mut self.room) {
                Ok(range) => range,
                Err(error) => {
                    tracing::warn!(%error, at, "the map of what is served cannot be read");
                    return self.refuse(request, errno::IO);
                }
            };
            let until = range.end().min(end);
            let state = if range.holds == Holds::Zeros { wire::HOLE | wire::ZERO } else { 0 };
            let has_room = told.len() < most;
            match told.last_mut() {
                Some((length, last)) if *last == state => *length += until - at,
                _ if has_room => told.push((until - at, state)),
                _ => break,
            }
            at = until;
        }
        let mut answer = chunk_head(request, true, chunk::BLOCK_STATUS, 4 + 8 * told.len());
        answer.extend(MAP.to_be_bytes());
        for (length, state) in told {
            // All of them together are not longer than what was asked for.
            answer.extend((length as u32).to_be_bytes());
            answer.extend(state.to_be_bytes());
        }
        self.stream.write_all(&answer)
    }

    fn done(&mut self, request: &Request) -> io::Result<()> {
        let head = match self.terms.structured {
            true => chunk_head(request, true, chunk::NONE, 0),
            false => simple_head(request, 0),
        };
        self.stream.write_all(&head)
    }

    fn refuse(&mut self, request: &Request, errno: u32) -> io::Result<()> {
        let head = match self.terms.structured {
            true => {
                let mut head = chunk_head(request, true, chunk::ERROR, 6);
                head.extend(errno.to_be_bytes());
                head.extend(0_u16.to_be_bytes());
                head
            }
            false => simple_head(request, errno),
        };
        self.stream.write_all(&head)
    }
}

fn simple_head(request: &Request, errno: u32) -> Vec<u8> {
    let mut head = wire::SIMPLE_REPLY.to_be_bytes().to_vec();
    head.extend(errno.to_be_bytes());
    head.extend(request.cookie.to_be_bytes());
    head
}

fn chunk_head(request: &Request, is_last: bool, kind: u16, length: usize) -> Vec<u8> {
    let mut head = wire::STRUCTURED_REPLY.to_be_bytes().to_vec();
    head.extend(if is_last { chunk::DONE } else { 0 }.to_be_bytes());
    head.extend(kind.to_be_bytes());
    head.extend(request.cookie.to_be_bytes());
    head.extend((length as u32).to_be_bytes());
    head
}
