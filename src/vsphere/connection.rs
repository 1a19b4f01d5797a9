//! GETs of files, one after the other over a connection of its own, with the session's cookie.
//!
//! An answer is read to its end, or the connection is thrown away with it: the next GET opens another one. A session that the server forgot is begun
//! anew, once per GET. What is not here: which files there are, and going on after an answer broke off.

use std::io::{self, Read};
use std::ops::Range;
use std::time::Duration;

use hyper::body::{Buf as _, Bytes};
use hyper::header::{COOKIE, HeaderValue, RANGE};
use hyper::{HeaderMap, Method, StatusCode};

use super::client::Client;
use super::wire::{Filled, Wire};
use crate::model::error::{Error, Result};
use crate::web::Said;

/// A connection to the server of a client.
#[derive(Debug)]
pub struct Connection {
    client: Client,
    wire: Option<Wire>,
}

/// An answer, its body still on the way.
#[derive(Debug)]
pub struct Response<'c> {
    /// What became of it: 206 where a range was asked for and given.
    pub status: StatusCode,
    /// What is said of it.
    pub headers: HeaderMap,
    /// What it holds.
    pub body: Body<'c>,
}

/// What an answer holds, as it comes. An end that came too early is an error, and so is a silence that takes too long, or a trickle.
#[derive(Debug)]
pub struct Body<'c> {
    connection: &'c mut Connection,
    said: Said,
    piece: Bytes,
}

impl Connection {
    pub(super) fn new(client: Client) -> Connection {
        Connection { client, wire: None }
    }

    /// Asks for a path with its query; of a range (its end is not in it), if one is given, which the server may ignore: see the status.
    pub fn get(&mut self, path_and_query: &str, range: Option<Range<u64>>) -> Result<Response<'_>> {
        let limit = self.client.patience().timeout;
        let range = range.filter(|range| !range.is_empty());
        let range = range.map(|range| format!("bytes={}-{}", range.start, range.end - 1));
        let (cookie, number) = self.client.cookie()?;
        let mut said = self.ask(path_and_query, range.as_deref(), cookie, limit)?;
        if said.status == StatusCode::UNAUTHORIZED {
            self.wire = None;
            self.client.renew(number)?;
            let (cookie, _) = self.client.cookie()?;
            said = self.ask(path_and_query, range.as_deref(), cookie, limit)?;
        }
        let (status, headers) = (said.status, said.headers.clone());
        Ok(Response { status, headers, body: Body { connection: self, said, piece: Bytes::new() } })
    }

    fn ask(
        &mut self,
        target: &str,
        range: Option<&str>,
        cookie: Option<HeaderValue>,
        limit: Duration,
    ) -> Result<Said> {
        let mut headers = HeaderMap::new();
        if let Some(cookie) = cookie {
            headers.insert(COOKIE, cookie);
        }
        if let Some(range) = range {
            headers.insert(
                RANGE,
                HeaderValue::from_str(range).map_err(|error| Error::internal(error.to_string()))?,
            );
        }
        if let Some(mut wire) = self.wire.take().filter(|wire| !wire.is_closed()) {
            // The server may hang up just now: then it is asked over a new one.
            if let Ok(said) = wire.ask(Method::GET, target, headers.clone(), String::new(), limit) {
                self.wire = Some(wire);
                return Ok(said);
            }
            self.client.control().ended()?;
        }
        let mut wire = self.client.wire()?;
        let said = wire.ask(Method::GET, target, headers, String::new(), limit)?;
        self.wire = Some(wire);
        Ok(said)
    }
}

impl Body<'_> {
    /// Takes all that is still to come into a buffer, and tells each part as it comes.
    pub fn fill(&mut self, buffer: &mut [u8], came: &mut dyn FnMut(usize)) -> Result<Filled> {
        let Some(wire) = &mut self.connection.wire else { return Ok(Filled::Ended(0)) };
        let filled = wire.fill(&mut self.said, buffer, came);
        if filled.is_err() {
            self.connection.wire = None;
        }
        filled
    }

    /// The next piece; none at the end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(wire) = &mut self.connection.wire else { return Ok(None) };
        let next = wire.next(&mut self.said);
        if next.is_err() {
            self.connection.wire = None;
        }
        next
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.piece.is_empty() {
            // The error goes along as it is: whoever reads may ask for it.
            self.piece = self.next().map_err(io::Error::other)?.unwrap_or_default();
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

impl Drop for Body<'_> {
    fn drop(&mut self) {
        if !self.said.is_read() {
            self.connection.wire = None;
        }
    }
}
