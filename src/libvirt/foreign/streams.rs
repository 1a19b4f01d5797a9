//! Streams that know holes: what is sent and received of a sparse file beside its bytes.

#![allow(unsafe_code)]

use virt::error::Error;
use virt::stream::Stream;
use virt::sys;

/// What libvirt answers where a hole comes next.
const AT_A_HOLE: i32 = -3;

/// What came next in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::libvirt) enum Received {
    /// So many bytes, at the front of the buffer.
    Bytes(usize),
    /// So many zeros that were not sent.
    Hole(u64),
    /// Nothing: all was told.
    End,
}

/// Leaves out so many bytes, of a stream that was opened for holes.
pub(in crate::libvirt) fn send_hole(stream: &Stream, length: u64) -> Result<(), Error> {
    // SAFETY: the stream lives as long as the call, which takes numbers only.
    let answer = unsafe { sys::virStreamSendHole(stream.as_ptr(), length.cast_signed(), 0) };
    if answer < 0 { Err(Error::last_error()) } else { Ok(()) }
}

/// The next bytes, or the next hole.
pub(in crate::libvirt) fn receive(stream: &Stream, buffer: &mut [u8]) -> Result<Received, Error> {
    let flags = sys::VIR_STREAM_RECV_STOP_AT_HOLE;
    // SAFETY: the buffer is ours alone, and libvirt is told how long it is.
    let answer =
        unsafe { sys::virStreamRecvFlags(stream.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    match usize::try_from(answer) {
        Ok(0) => Ok(Received::End),
        Ok(bytes) => Ok(Received::Bytes(bytes)),
        Err(_) if answer == AT_A_HOLE => {
            let mut length = 0;
            // SAFETY: libvirt writes one number, into a variable of ours.
            let answer = unsafe { sys::virStreamRecvHole(stream.as_ptr(), &raw mut length, 0) };
            match u64::try_from(length) {
                Ok(length) if answer >= 0 => Ok(Received::Hole(length)),
                _ => Err(Error::last_error()),
            }
        }
        Err(_) => Err(Error::last_error()),
    }
}
