//! Bytes of files on datastores: a range is asked for until all of it has come, over networks and from servers that fail.
//!
//! ```text
//!   broke off, silent          the rest is asked for, again and again as the client's patience says (the first time at once, if something came)
//!   429, 5xx                   the same, and nobody asks this server meanwhile; it may say itself for how long (Retry-After)
//!   401                        logged in again (the connection does that), and asked again
//!   another file than before   for good: its size or its date are not what they were
//!   200, another range         for good: somebody in between does not understand ranges
//!   403, 404                   for good
//! ```
//!
//! What has come is not asked for again. What is not here: connections, and what the bytes mean.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{AsHeaderName, CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED, RETRY_AFTER};
use hyper::{HeaderMap, StatusCode};

use super::location::DatastorePath;
use super::pool::Pool;
use crate::disk::Control;
use crate::model::error::{Disposition, Error, Kind, Result};
use crate::vsphere::wire::Filled;
use crate::vsphere::{Client, Connection, Response};

/// A server is not left alone for longer, whatever it says.
const LONGEST_REST: Duration = Duration::from_secs(120);

/// The files of a server's datastores.
#[derive(Debug, Clone)]
pub(crate) struct Files {
    pool: Arc<Pool>,
    /// As addresses have it.
    datacenter: String,
}

/// A file as it was when it was first looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) place: DatastorePath,
    pub(crate) size: u64,
    /// Its date, or whatever else the server says that is another one once it was written to.
    pub(crate) stamp: Option<String>,
}

/// What was asked for did not come, or not all of it.
struct Trouble {
    error: Error,
    /// Asked again, it may come.
    passes: bool,
    /// For so long the server is to be left alone.
    rest: Option<Duration>,
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble { passes: error.disposition() == Disposition::Transient, error, rest: None }
    }
}

impl Files {
    /// Those of a datacenter, over so many connections at most.
    pub(crate) fn new(client: &Client, datacenter: &str, connections: usize) -> Files {
        Files { pool: Pool::of(client, connections), datacenter: datacenter.to_owned() }
    }

    /// By which name the server was reached.
    pub(crate) fn host(&self) -> &str {
        self.pool.client().host()
    }

    /// Looks at a file: how large it is, and what tells whether it was written to.
    pub(crate) fn look(&self, place: &DatastorePath, control: &Control) -> Result<File> {
        self.patiently(control, &mut |connection, _| {
            let answer = connection.get(&place.target(&self.datacenter), Some(0..1))?;
            let empty = answer.status == StatusCode::RANGE_NOT_SATISFIABLE;
            let size = match told_range(&answer.headers) {
                Some((_, size)) => size,
                None if empty => 0,
                None => return Err(self.unfit(place, &answer)),
            };
            let stamp = stamp_of(&answer.headers);
            drain(answer)?;
            Ok(File { place: place.clone(), size, stamp })
        })
    }

    /// All of a small file; one that has more than `most` bytes is none of those.
    pub(crate) fn whole(&self, place: &DatastorePath, most: u64, control: &Control) -> Result<Vec<u8>> {
        let file = self.look(place, control)?;
        if file.size > most {
            return Err(Error::new(
                Kind::Source,
                format!("{} has {} bytes, and is no description of a disk", self.name(place), file.size),
            )
            .rule("disk.format")
            .advice("name the disk by its descriptor: the file without `-flat`"));
        }
        let mut bytes = vec![0; usize::try_from(file.size).unwrap_or_default()];
        self.read(&file, 0, &mut bytes, control)?;
        Ok(bytes)
    }

    /// Fills the buffer with what lies in a file.
    pub(crate) fn read(&self, file: &File, at: u64, buffer: &mut [u8], control: &Control) -> Result<()> {
        let mut done = 0;
        if buffer.is_empty() {
            return Ok(());
        }
        self.patiently(control, &mut |connection, progress| {
            while done < buffer.len() {
                let wanted = at + done as u64..at + buffer.len() as u64;
                let came = &mut buffer[done..];
                self.piece(connection, file, wanted, came, &mut |count| {
                    done += count;
                    *progress = true;
                })?;
            }
            Ok(())
        })
    }

    /// For people: `[ds1] web/web-flat.vmdk on vc.example.com`.
    pub(crate) fn name(&self, place: &DatastorePath) -> String {
        format!("{place} on {}", self.host())
    }

    /// What tells it from any other file anywhere.
    pub(super) fn address(&self, place: &DatastorePath) -> String {
        format!("{} {}", self.host(), place.target(&self.datacenter))
    }

    /// Does something over one connection after the other until it is done. `work` says whether something came.
    fn patiently<T>(
        &self,
        control: &Control,
        work: &mut dyn FnMut(&mut Connection, &mut bool) -> Result<T, Trouble>,
    ) -> Result<T> {
        let patience = self.pool.client().patience();
        let mut failures = 0;
        loop {
            let mut came = false;
            let tried = self.pool.with(control, |connection| Ok(work(connection, &mut came)))?;
            let Trouble { error, passes, rest } = match tried {
                Ok(done) => return Ok(done),
                Err(trouble) => trouble,
            };
            if !passes {
                return Err(error);
            }
            failures += 1;
            let Some(wait) = patience.wait(failures) else { return Err(error) };
            let wait = match rest {
                Some(rest) => rest.max(wait).min(LONGEST_REST),
                // A server that was speaking a moment ago is there.
                None if came && failures == 1 => Duration::ZERO,
                None => wait,
            };
            tracing::warn!(%error, attempt = failures, "asked again in {:.1} s", wait.as_secs_f64());
            if rest.is_some() {
                self.pool.rest(wait);
            } else {
                self.pool.wait(wait, control)?;
            }
        }
    }

    /// Asks for a range, and takes what comes of it; `came` hears of each part.
    fn piece(
        &self,
        connection: &mut Connection,
        file: &File,
        wanted: Range<u64>,
        into: &mut [u8],
        came: &mut dyn FnMut(usize),
    ) -> Result<(), Trouble> {
        let place = &file.place;
        let mut answer = connection.get(&place.target(&self.datacenter), Some(wanted.clone()))?;
        let told = match answer.status {
            StatusCode::PARTIAL_CONTENT => told_range(&answer.headers),
            // All of it is what was asked for.
            StatusCode::OK if wanted == (0..file.size) && length_of(&answer.headers) == Some(file.size) => {
                Some((wanted.clone(), file.size))
            }
            _ => return Err(self.unfit(place, &answer)),
        };
        let Some((told, size)) = told else {
            return Err(self.no_ranges(place, "does not say which part of it").into());
        };
        // Who says nothing of its date says nothing else either.
        let other_stamp = stamp_of(&answer.headers).is_some_and(|stamp| file.stamp.as_ref() != Some(&stamp));
        if size != file.size || other_stamp {
            return Err(self.changed(place).into());
        }
        // Less is allowed: the rest is asked for then.
        if told.start != wanted.start || told.end > wanted.end || told.is_empty() {
            let what = format!(
                "answered with bytes {}-{} for {}-{}",
                told.start, told.end, wanted.start, wanted.end
            );
            return Err(self.no_ranges(place, &what).into());
        }
        let promised = usize::try_from(told.end - told.start).unwrap_or(usize::MAX);
        let room =
            into.get_mut(..promised).ok_or_else(|| Error::internal("an answer is larger than its place"))?;
        let Filled::Ended(done) = answer.body.fill(room, came)? else {
            return Err(self.no_ranges(place, "answered with more than it had announced").into());
        };
        if done < promised {
            let why = format!("{} broke off after {done} of {promised} bytes", self.name(place));
            return Err(Error::new(Kind::Network, why)
                .advice("see whether the network in between is sound")
                .into());
        }
        Ok(())
    }

    /// What an answer means that is not the file.
    fn unfit(&self, place: &DatastorePath, answer: &Response<'_>) -> Trouble {
        let (host, status) = (self.host(), answer.status);
        let failure = |kind: Kind, what: &str| {
            Error::new(kind, format!("{place}: {host} {what} ({status})")).source(self.name(place))
        };
        let error = match status.as_u16() {
            401 | 403 => failure(Kind::Auth, "does not let this account read it").advice(
                "give the account the privileges Datastore.Browse and Datastore.FileManagement (low level file operations) on the datastore",
            ),
            404 | 410 => failure(Kind::Source, "has no such file")
                .rule("disk.missing")
                .advice("see whether the VM was moved or deleted meanwhile: `hyper2kvm vsphere disks`"),
            200 | 206 => return self.no_ranges(place, "answers requests for a part with all of it").into(),
            416 => return self.changed(place).into(),
            429 | 500 | 502 | 503 | 504 => {
                let error = failure(Kind::Network, "cannot give it now").advice(
                    "the server is overloaded or starts, or the file is in use: see that the VM is off and no backup runs",
                );
                return Trouble { error, passes: true, rest: Some(asked_to_wait(&answer.headers).unwrap_or_default()) };
            }
            _ => failure(Kind::Source, "does not give it").advice(
                "see that nothing stands between this machine and the server, and what the server's own log says",
            ),
        };
        // A session that was begun anew a moment ago may be forgotten, too.
        let passes = status == StatusCode::UNAUTHORIZED;
        Trouble { error, passes, rest: None }
    }

    /// Somebody in between, or the server, does something else with ranges than the standard says.
    fn no_ranges(&self, place: &DatastorePath, what: &str) -> Error {
        Error::new(Kind::Source, format!("{place}: {} {what}", self.host()))
            .source(self.name(place))
            .advice("see whether a proxy stands between this machine and the server, and go past it")
            .permanent()
    }

    /// It is not what it was.
    pub(super) fn changed(&self, place: &DatastorePath) -> Error {
        let name = self.name(place);
        Error::new(Kind::Source, format!("{name} was written to while it was read"))
            .rule("disk.changed")
            .source(name)
            .advice("make sure that the VM is off and nothing changes its disk, then try again")
    }
}

/// Reads a short answer to its end, so that its connection can be used again.
fn drain(mut answer: Response<'_>) -> Result<(), Trouble> {
    const MOST: usize = 4096;
    let mut seen = 0;
    while let Some(bytes) = answer.body.next()? {
        seen += bytes.len();
        if seen > MOST {
            break;
        }
    }
    Ok(())
}

fn text(headers: &HeaderMap, name: impl AsHeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// `bytes 0-99/4096`: which part it is, and of how much.
fn told_range(headers: &HeaderMap) -> Option<(Range<u64>, u64)> {
    let (range, size) = text(headers, CONTENT_RANGE)?.strip_prefix("bytes ")?.split_once('/')?;
    let (start, last) = range.split_once('-')?;
    let (start, last, size): (u64, u64, u64) =
        (start.trim().parse().ok()?, last.trim().parse().ok()?, size.trim().parse().ok()?);
    (start <= last && last < size).then(|| (start..last + 1, size))
}

fn length_of(headers: &HeaderMap) -> Option<u64> {
    text(headers, CONTENT_LENGTH)?.parse().ok()
}

/// What is another one once a file was written to. A date that is there is enough: not every server's tags stay the same.
fn stamp_of(headers: &HeaderMap) -> Option<String> {
    const MOST: usize = 200;
    let stamp = text(headers, LAST_MODIFIED).or_else(|| text(headers, ETAG))?;
    Some(stamp.chars().take(MOST).collect())
}

/// Only seconds: no server of vSphere's gives a date.
fn asked_to_wait(headers: &HeaderMap) -> Option<Duration> {
    text(headers, RETRY_AFTER)?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        headers
    }

    #[test]
    fn a_range_is_believed_only_if_it_can_be() {
        let told = |value: &str| told_range(&with("content-range", value));
        assert_eq!(told("bytes 0-99/4096"), Some((0..100, 4096)));
        assert_eq!(told("bytes 100-4095/4096"), Some((100..4096, 4096)));
        for odd in [
            "bytes 100-99/4096",
            "bytes 0-4096/4096",
            "bytes 0-1/*",
            "bytes */4096",
            "0-1/4096",
            "bytes -1-5/9",
            "bytes 0-18446744073709551615/18446744073709551615",
            "",
        ] {
            assert_eq!(told(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_date_counts_before_a_tag_and_waits_are_in_seconds() {
        let mut headers = with("etag", "\"a\"");
        assert_eq!(stamp_of(&headers).as_deref(), Some("\"a\""));
        headers.insert(LAST_MODIFIED, "Sun, 29 Nov 2026 18:39:56 GMT".parse().unwrap());
        assert_eq!(stamp_of(&headers).as_deref(), Some("Sun, 29 Nov 2026 18:39:56 GMT"));
        assert_eq!(asked_to_wait(&with("retry-after", "3")), Some(Duration::from_secs(3)));
        assert_eq!(asked_to_wait(&with("retry-after", "soon")), None);
    }
}
