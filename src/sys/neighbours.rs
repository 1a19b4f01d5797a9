//! The neighbours of this host, as the kernel's network stack knows them: who answers for which address.
//!
//! One question over netlink, and its answer read to the end. What is not here: asking a neighbour whether it is still there.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with};

/// The kernel's pieces of an answer are no larger.
const PIECE_BYTES: usize = 64 << 10;
/// More than any neighbour table may hold by default, many times over.
const MOST: usize = 1 << 16;
/// `struct nlmsghdr`, and `struct ndmsg` behind it.
const HEAD: usize = 16;
const BODY: usize = 12;
/// `NLMSG_ERROR`, `NLMSG_DONE`, `RTM_NEWNEIGH`, `RTM_GETNEIGH`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
const NEIGHBOUR: u16 = 28;
const ASK: u16 = 30;
/// `NLM_F_REQUEST` and `NLM_F_DUMP`: all of them.
const ALL: u16 = 0x301;
/// `NDA_DST` and `NDA_LLADDR`.
const ADDRESS: u16 = 1;
const HARDWARE: u16 = 2;
/// `NUD_REACHABLE`, `NUD_STALE`, `NUD_DELAY`, `NUD_PROBE`, `NUD_PERMANENT`: it has answered once.
const KNOWN: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80;

/// Who answers for an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Neighbour {
    /// The address.
    pub address: IpAddr,
    /// The hardware address of the card that has it.
    pub mac: [u8; 6],
}

/// All neighbours that have answered.
pub fn neighbours() -> io::Result<Vec<Neighbour>> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, &question(), SendFlags::empty())?;
    let (mut found, mut piece) = (Vec::new(), vec![0; PIECE_BYTES]);
    loop {
        let (count, _) = recv(&socket, piece.as_mut_slice(), RecvFlags::empty())?;
        if count == 0 || take(&piece[..count], &mut found)? || found.len() > MOST {
            return Ok(found);
        }
    }
}

fn question() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD + BODY);
    bytes.extend(((HEAD + BODY) as u32).to_ne_bytes());
    bytes.extend(ASK.to_ne_bytes());
    bytes.extend(ALL.to_ne_bytes());
    // Neither the number of the question nor who asks matters, and of neighbours all are meant: any family, any interface.
    bytes.resize(HEAD + BODY, 0);
    bytes
}

/// Takes what is in a piece; `true`: it was the last.
fn take(piece: &[u8], found: &mut Vec<Neighbour>) -> io::Result<bool> {
    let mut rest = piece;
    while let (Some(length), Some(kind)) = (u32_at(rest, 0), u16_at(rest, 4)) {
        let length = length as usize;
        // The length may be anything only if this is not the kernel's.
        let Some(message) = rest.get(HEAD..length) else { break };
        match kind {
            DONE => return Ok(true),
            ERROR => return Err(io::Error::from_raw_os_error(-i32_at(message, 0).unwrap_or_default())),
            NEIGHBOUR => found.extend(neighbour(message)),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Ok(false)
}

fn neighbour(message: &[u8]) -> Option<Neighbour> {
    if u16_at(message, 8)? & KNOWN == 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    let mut rest = message.get(BODY..)?;
    while let (Some(length), Some(kind)) = (u16_at(rest, 0), u16_at(rest, 2)) {
        let length = usize::from(length);
        let value = rest.get(4..length)?;
        match kind {
            ADDRESS => address = address_of(value),
            HARDWARE => mac = <[u8; 6]>::try_from(value).ok(),
            _ => {}
        }
        rest = rest.get(aligned(length)..).unwrap_or_default();
    }
    Some(Neighbour { address: address?, mac: mac? })
}

fn address_of(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = || <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = || <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).into());
    v4().or_else(v6)
}

/// Everything begins at a multiple of four.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    u32_at(bytes, at).map(u32::cast_signed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut bytes = ((HEAD + body.len()) as u32).to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize(HEAD, 0);
        bytes.extend(body);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn entry(state: u16, address: &[u8], mac: &[u8]) -> Vec<u8> {
        let mut body = vec![0; BODY];
        body[8..10].copy_from_slice(&state.to_ne_bytes());
        for (kind, value) in [(ADDRESS, address), (HARDWARE, mac)] {
            body.extend(((4 + value.len()) as u16).to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(value);
            body.resize(aligned(body.len()), 0);
        }
        message(NEIGHBOUR, &body)
    }

    #[test]
    fn the_kernel_tells_its_neighbours_to_whoever_asks() {
        // Which there are, nobody knows; that the answer has an end is what counts.
        assert!(neighbours().is_ok());
    }

    #[test]
    fn neighbours_that_have_answered_are_taken_and_the_end_may_come_in_the_same_piece() {
        let mac = [0x52, 0x54, 0, 0, 0, 7];
        let piece = [
            entry(0x02, &[10, 0, 0, 7], &mac),
            entry(0x20, &[10, 0, 0, 8], &mac),
            entry(0x04, &[0xfd; 16], &mac),
            entry(0x04, &[10, 0], &mac),
            entry(0x04, &[10, 0, 0, 9], &[]),
            message(DONE, &[0; 4]),
        ];
        let mut found = Vec::new();
        assert!(take(&piece.concat(), &mut found).unwrap());
        let expected: [IpAddr; 2] = [Ipv4Addr::new(10, 0, 0, 7).into(), Ipv6Addr::from([0xfd; 16]).into()];
        assert_eq!(found.iter().map(|found| found.address).collect::<Vec<_>>(), expected);
        assert!(found.iter().all(|found| found.mac == mac));
        assert!(!take(&piece[0], &mut found).unwrap());
        assert!(take(&message(ERROR, &(-1_i32).to_ne_bytes()), &mut found).is_err());
    }

    #[test]
    fn what_is_cut_off_or_no_answer_at_all_is_left_out() {
        let whole = entry(0x02, &[10, 0, 0, 7], &[0x52, 0x54, 0, 0, 0, 7]);
        for end in 0..whole.len() {
            let mut found = Vec::new();
            assert!(!take(&whole[..end], &mut found).unwrap());
            assert!(found.is_empty(), "{end}");
        }
        let mut found = Vec::new();
        assert!(!take(&[0; 64], &mut found).unwrap() && !take(&[0xff; 64], &mut found).unwrap());
        assert!(found.is_empty());
    }
}
