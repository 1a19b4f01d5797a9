//! One disk of a lease on its way here: a GET, from its beginning to its end, with the checksum that the server may know of it.
//!
//! What is not here: what it means, and asking again.

use hyper::body::{Buf as _, Bytes};
use hyper::header::COOKIE;
use hyper::{HeaderMap, Method};
use std::sync::Arc;

use super::lease::Lease;
use super::tally::Tally;
use crate::disk::{Control, Sent};
use crate::model::error::{Error, Kind, Result};
use crate::vsphere::wire::Wire;
use crate::web::Said;

/// A host says nothing while it reads what is empty: so many times as long as it may be silent else.
const PATIENCE: u32 = 5;

/// See the module.
#[derive(Debug)]
pub(crate) struct Download {
    lease: Arc<Lease>,
    number: usize,
    wire: Wire,
    said: Said,
    piece: Bytes,
    tally: Tally,
    /// How much of the disk has come.
    reached: u64,
}

impl Download {
    /// Asks for a device of a lease.
    pub(crate) fn begin(lease: Arc<Lease>, number: usize, control: &Control) -> Result<Download> {
        lease.begins();
        let client = lease.client();
        let (device, (asked, tls)) = (lease.device(number), client.channel());
        let limit = client.patience().timeout;
        let (host, tls) = device.sender(asked, tls)?;
        let mut wire = Wire::open(&host, &tls, limit, control)?.patient();
        let mut headers = HeaderMap::new();
        if device.is_sent_by(asked)
            && let (Some(cookie), _) = client.cookie()?
        {
            headers.insert(COOKIE, cookie);
        }
        let limit = limit * PATIENCE;
        let said = wire.ask(Method::GET, &device.address.target, headers, String::new(), limit)?;
        if said.status != hyper::StatusCode::OK {
            let why = format!("{} answered {} where a disk was to come", host.host, said.status);
            return Err(lease.lost().unwrap_or_else(|| {
                Error::new(Kind::Network, why)
                    .advice("see in the server's own events what became of the export")
                    .transient()
            }));
        }
        let tally = Tally::begin()?;
        Ok(Download { lease, number, wire, said, piece: Bytes::new(), tally, reached: 0 })
    }
}

impl Sent for Download {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.piece.is_empty() {
            let next = self.wire.next(&mut self.said);
            // That nothing more comes is told better by who ended it.
            let next = next.map_err(|error| match (error.kind(), self.lease.lost()) {
                (Kind::Network, Some(lost)) => lost,
                _ => error,
            });
            self.piece = next?.unwrap_or_default();
            if !self.piece.is_empty() {
                self.tally.add(self.piece.clone())?;
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }

    fn reached(&mut self, bytes: u64, _: u64) {
        // A few bytes stand for much that is empty, and that takes the host its time.
        self.wire.gets_on(bytes.saturating_sub(self.reached));
        self.reached = self.reached.max(bytes);
        self.lease.reached(self.number, bytes);
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if let Some((bytes, digest)) = self.lease.account(self.number) {
            let ours = self.tally.total()?;
            if bytes != ours.bytes || digest.is_some_and(|digest| digest != ours.sha1) {
                let key = &self.lease.device(self.number).key;
                return Err(Error::new(
                    Kind::Network,
                    format!("what came of {key} is not what the server says that it has sent ({} bytes of {bytes}, SHA-1 {})", ours.bytes, ours.sha1),
                )
                .advice("it is fetched again; if it repeats, see what changes it on its way")
                .transient());
            }
        }
        self.lease.finishes();
        Ok(())
    }
}
