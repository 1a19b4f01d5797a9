//! From a complete file to durable rows, and only then to a move.
//!
//! Files are taken in chunks: one transaction for the rows, one sync for the moves, one transaction
//! for the marks. A chunk is small, because everybody else who asks the queue waits for it.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{self, Content, MAX_BYTES};
use super::names;
use super::pending::Certainty;
use super::place::Places;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::planner::Submission;
use crate::model::units::human_size;
use crate::pipeline::described;
use crate::service::admission::{Known, MAX_OFFERS, Results, unsteady};
use crate::service::queue::{
    Admission, Db, DropRow, DropState, DroppedFile, FileIdentity, NewDrop, QueueHandle,
};
use crate::sys::failpoint;

/// Drops of one transaction at most.
pub(super) const CHUNK_DROPS: usize = 64;

/// Bytes of one transaction at most (one drop may have more).
pub(super) const CHUNK_BYTES: usize = 8 << 20;

/// A file that was read and parsed.
#[derive(Debug)]
pub(super) struct Candidate {
    name: OsString,
    identity: FileIdentity,
    drop: NewDrop,
}

impl Candidate {
    pub(super) fn bytes(&self) -> usize {
        self.drop.bytes.len()
    }

    /// A disk, by the manifest that was made for it.
    pub(super) fn of_disk(name: OsString, identity: FileIdentity, drop: NewDrop) -> Candidate {
        Candidate { name, identity, drop }
    }

    fn came_to(self, outcome: Outcome) -> Offered {
        let files = self.drop.brought.map(|brought| brought.files).unwrap_or_default();
        Offered { name: self.name, identity: self.identity, files, outcome }
    }
}

/// What reading one file came to.
#[derive(Debug)]
pub(super) enum Taken {
    /// It can be offered to the queue.
    Candidate(Box<Candidate>),
    /// It is refused.
    Refused(FileIdentity, Error),
    /// It is not complete after all, and has to hold still.
    Incomplete(Option<FileIdentity>),
}

/// What reading one plain file came to.
#[derive(Debug)]
pub(super) enum Read {
    /// Its bytes.
    Whole(Vec<u8>, FileIdentity),
    /// It is decided without them.
    Decided(Taken),
}

/// Reads one plain file.
pub(super) fn read(places: &Places, name: &OsString, certainty: Certainty) -> Result<Read> {
    let path = places.incoming.join(name);
    let content = match file::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            return unreadable(places, name, &error).map(Read::Decided);
        }
        Err(error) => return Err(Error::io(Kind::Manifest, "read", &path, &error)),
    };
    Ok(match content {
        Content::Unsteady => Read::Decided(Taken::Incomplete(None)),
        Content::TooLarge(identity) => Read::Decided(match certainty {
            Certainty::IfItParses => Taken::Incomplete(Some(identity)),
            Certainty::RenamedIn | Certainty::HeldStill => Taken::Refused(identity, too_large(identity.size)),
        }),
        Content::Whole(bytes, identity) => Read::Whole(bytes, identity),
    })
}

/// Parses what was read; `files`: of a batch, with the manifests beside it that it names.
pub(super) fn take(
    places: &Places,
    name: &OsString,
    (bytes, identity): (Vec<u8>, FileIdentity),
    files: Vec<DroppedFile>,
    certainty: Certainty,
    settings: &Settings,
) -> Taken {
    match parse(&bytes, name, places, settings) {
        Ok(submission) if certainty != Certainty::IfItParses || is_whole(&bytes) => {
            let mut drop = NewDrop::new(bytes, Some(identity), submission);
            if !files.is_empty() {
                drop.brought = Some(places.brought(files));
            }
            Taken::Candidate(Box::new(Candidate { name: name.clone(), identity, drop }))
        }
        Err(error) if certainty != Certainty::IfItParses => Taken::Refused(identity, error),
        Ok(_) | Err(_) => Taken::Incomplete(Some(identity)),
    }
}

/// A text that parses may still be the beginning of a longer one: only a closing brace or the end of a
/// line can be its end.
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    let trimmed = bytes.trim_ascii_end();
    trimmed.last() == Some(&b'}') || trimmed.len() < bytes.len()
}

fn parse(bytes: &[u8], name: &OsString, places: &Places, settings: &Settings) -> Result<Submission> {
    let name = names::readable(name)
        .map_err(|why| not_a_drop(why).advice("give it a plain name and drop it again"))?;
    described::submission(bytes, name, &places.incoming, settings)
}

/// What the service may not read, it can still move away and explain.
fn unreadable(places: &Places, name: &OsString, error: &std::io::Error) -> Result<Taken> {
    let found = places
        .look(name)
        .map_err(|error| Error::io(Kind::Manifest, "look at", &places.incoming.join(name), &error))?;
    Ok(match found.identity() {
        None => Taken::Incomplete(None),
        Some(identity) => Taken::Refused(
            identity,
            not_a_drop(&format!("it cannot be read: {error}"))
                .advice("let the service's user or the directory's group read it, and drop it again"),
        ),
    })
}

/// A drop that is not a plain readable file.
pub(super) fn not_a_drop(why: &str) -> Error {
    Error::new(Kind::Manifest, format!("this is no drop: {why}"))
}

fn too_large(size: u64) -> Error {
    not_a_drop(&format!("it has {}, and a manifest at most {}", human_size(size), human_size(MAX_BYTES)))
        .advice("drop the manifest that names the disk, not the disk")
}

/// What became of a candidate.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Its rows are durable; now it is moved.
    Accepted(DropRow, Vec<u8>),
    /// Its rows were durable already (a crash came between): now it is moved.
    Known(DropRow),
    /// It is refused.
    Refused(Error),
    /// What has to be known about earlier runs cannot be found out now: it is offered again later.
    PutOff(Error),
}

/// A candidate's file, and what became of it.
#[derive(Debug)]
pub(super) struct Offered {
    pub(super) name: OsString,
    pub(super) identity: FileIdentity,
    /// The files of a disk.
    pub(super) files: Vec<DroppedFile>,
    pub(super) outcome: Outcome,
}

/// What one offer came to.
enum Answer {
    Decided(Offered),
    /// First it has to be known which of these results of earlier runs are there.
    Asks(Candidate, BTreeSet<PathBuf>),
}

/// Offers a chunk to the queue: what is accepted is durable when this returns.
///
/// Drops about which something has to be found out first are offered again after the others; looking
/// happens here, where only intake waits, and ends with an answer or with a drop that is put off.
pub(super) fn offer(
    queue: &QueueHandle,
    places: &Places,
    results: &Results,
    chunk: Vec<Candidate>,
    settings: &Arc<Settings>,
) -> Result<Vec<Offered>> {
    let (mut decided, mut open, mut known) = (Vec::with_capacity(chunk.len()), chunk, Known::default());
    for _ in 0..MAX_OFFERS {
        failpoint::hit("intake.before-accept");
        let (places, settings, told) = (places.clone(), Arc::clone(settings), known.clone());
        let offered = std::mem::take(&mut open);
        let answered = queue.with_blocking(move |db| {
            let offer_all = |db: &mut Db| {
                let offer = |candidate| offer_one(db, candidate, &places, &settings, &told);
                offered.into_iter().map(offer).collect::<Result<Vec<Answer>>>()
            };
            db.atomically(offer_all)
        });
        let answers = match answered {
            Ok(answers) => answers,
            // What was accepted before is acknowledged now; the others are found again.
            Err(_) if !decided.is_empty() => return Ok(decided),
            Err(error) => return Err(error),
        };
        failpoint::hit("intake.after-accept");
        for answer in answers {
            match answer {
                Answer::Decided(offered) => decided.push(offered),
                Answer::Asks(candidate, paths) => match results.find_out(&paths, &mut known) {
                    Ok(()) => open.push(candidate),
                    Err(error) => decided.push(candidate.came_to(Outcome::PutOff(error))),
                },
            }
        }
        if open.is_empty() {
            return Ok(decided);
        }
    }
    decided.extend(open.into_iter().map(|candidate| candidate.came_to(Outcome::PutOff(unsteady()))));
    Ok(decided)
}

fn offer_one(
    db: &mut Db,
    candidate: Candidate,
    places: &Places,
    settings: &Settings,
    known: &Known,
) -> Result<Answer> {
    let (identity, drop) = (candidate.identity, &candidate.drop);
    // A moved drop whose file is not in processing/: a power cut has undone the move. One whose file is
    // there: the same file was linked in a second time, and is a second drop.
    if let Some(row) = db.drop_of_file(&drop.submission.filename, identity)?
        && row.sha256 == drop.sha256
        && (row.state == DropState::Accepted || !places.holds(&row))
    {
        return Ok(Answer::Decided(candidate.came_to(Outcome::Known(row))));
    }
    let admission = db
        .accept(std::slice::from_ref(drop), settings, known)?
        .pop()
        .ok_or_else(|| Error::internal("the queue did not say what became of a drop"))?;
    let outcome = match admission {
        Admission::Refused(error) => Outcome::Refused(error),
        Admission::Asks(paths) => return Ok(Answer::Asks(candidate, paths)),
        Admission::Accepted { drop_id, batch_id, processing_name, jobs, .. } => {
            tracing::info!(batch = %batch_id, name = %drop.submission.filename, jobs = jobs.len(), "accepted");
            let row = DropRow {
                drop_id,
                name: drop.submission.filename.clone(),
                sha256: drop.sha256.clone(),
                identity: Some(identity),
                files: drop.brought.as_ref().map(|brought| brought.files.clone()).unwrap_or_default(),
                state: DropState::Accepted,
                processing_name,
                settled_path: None,
                accepted_at: 0.0,
            };
            Outcome::Accepted(row, drop.bytes.clone())
        }
    };
    Ok(Answer::Decided(candidate.came_to(outcome)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_that_is_cut_off_in_a_line_is_not_whole() {
        assert!(is_whole(b"{\"name\": \"x\"}"));
        assert!(is_whole(b"name: web-server\n"));
        assert!(!is_whole(b"name: web-ser"));
        assert!(!is_whole(b""));
    }
}
