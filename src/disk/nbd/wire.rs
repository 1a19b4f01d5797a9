//! The numbers of the protocol, and how they lie in a stream: big-endian, as NBD's own `proto.md` has them.

use std::io::{self, Read};

/// What a server says first, …
pub(super) const GREETING: u64 = 0x4e42_444d_4147_4943;
/// … and what begins its second word and every option.
pub(super) const OPTION: u64 = 0x4948_4156_454f_5054;
pub(super) const OPTION_REPLY: u64 = 0x0003_e889_0455_65a9;
pub(super) const REQUEST: u32 = 0x2560_9513;
pub(super) const SIMPLE_REPLY: u32 = 0x6744_6698;
pub(super) const STRUCTURED_REPLY: u32 = 0x668e_33ef;

/// How both sides speak: options get answers, and no zeros are sent for nothing.
pub(super) const FIXED_NEWSTYLE: u16 = 1 << 0;
pub(super) const NO_ZEROES: u16 = 1 << 1;

pub(super) mod option {
    pub(in super::super) const EXPORT_NAME: u32 = 1;
    pub(in super::super) const ABORT: u32 = 2;
    pub(in super::super) const INFO: u32 = 6;
    pub(in super::super) const GO: u32 = 7;
    pub(in super::super) const STRUCTURED_REPLY: u32 = 8;
    pub(in super::super) const SET_META_CONTEXT: u32 = 10;
}

pub(super) mod reply {
    pub(in super::super) const ACK: u32 = 1;
    pub(in super::super) const INFO: u32 = 3;
    pub(in super::super) const META_CONTEXT: u32 = 4;
    /// Everything from here on is a refusal.
    pub(in super::super) const REFUSED: u32 = 1 << 31;
    pub(in super::super) const UNSUPPORTED: u32 = REFUSED + 1;
    pub(in super::super) const INVALID: u32 = REFUSED + 3;
    pub(in super::super) const UNKNOWN: u32 = REFUSED + 6;
}

pub(super) mod info {
    pub(in super::super) const EXPORT: u16 = 0;
    pub(in super::super) const BLOCK_SIZE: u16 = 3;
}

pub(super) mod command {
    pub(in super::super) const READ: u16 = 0;
    pub(in super::super) const WRITE: u16 = 1;
    pub(in super::super) const DISCONNECT: u16 = 2;
    pub(in super::super) const FLUSH: u16 = 3;
    pub(in super::super) const TRIM: u16 = 4;
    pub(in super::super) const WRITE_ZEROES: u16 = 6;
    pub(in super::super) const BLOCK_STATUS: u16 = 7;
    /// The answer to a read has to be in one piece.
    pub(in super::super) const IN_ONE_PIECE: u16 = 1 << 2;
    /// Of a map only the first range is wanted.
    pub(in super::super) const ONE_RANGE: u16 = 1 << 3;
}

pub(super) mod chunk {
    /// The last of an answer.
    pub(in super::super) const DONE: u16 = 1 << 0;
    pub(in super::super) const NONE: u16 = 0;
    pub(in super::super) const DATA: u16 = 1;
    pub(in super::super) const HOLE: u16 = 2;
    pub(in super::super) const BLOCK_STATUS: u16 = 5;
    /// Kinds from here on are errors.
    pub(in super::super) const ERROR: u16 = (1 << 15) + 1;
}

/// What an export can do.
pub(super) mod export {
    pub(in super::super) const HAS_FLAGS: u16 = 1 << 0;
    pub(in super::super) const READ_ONLY: u16 = 1 << 1;
    pub(in super::super) const FLUSHES: u16 = 1 << 2;
    pub(in super::super) const IN_ONE_PIECE: u16 = 1 << 7;
    pub(in super::super) const MANY_CONNECTIONS: u16 = 1 << 8;
}

/// Errors, as the protocol numbers them.
pub(super) mod errno {
    pub(in super::super) const NOT_PERMITTED: u32 = 1;
    pub(in super::super) const IO: u32 = 5;
    pub(in super::super) const INVALID: u32 = 22;
}

/// The map that tells what holds nothing, …
pub(super) const ALLOCATION: &[u8] = b"base:allocation";
/// … and how it says so.
pub(super) const HOLE: u32 = 1 << 0;
pub(super) const ZERO: u32 = 1 << 1;

/// So many bytes of a stream.
pub(super) fn take<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

pub(super) fn u16(stream: &mut impl Read) -> io::Result<u16> {
    take(stream).map(u16::from_be_bytes)
}

pub(super) fn u32(stream: &mut impl Read) -> io::Result<u32> {
    take(stream).map(u32::from_be_bytes)
}

pub(super) fn u64(stream: &mut impl Read) -> io::Result<u64> {
    take(stream).map(u64::from_be_bytes)
}

/// Somebody does not keep to the protocol: there is nothing more to talk about.
pub(super) fn garbled(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}
