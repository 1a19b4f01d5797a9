//! A batch and the manifests beside it that it names: one drop.
//!
//! What a batch names is told by the batches that lie in the drop directory now, each read once. A manifest that one of them names is not taken
//! by itself; it is parked, and goes where the batch goes. What a batch names and what is not there is waited for, as the parts of a disk are; then
//! the batch is taken all the same: the VM that lacks its manifest is refused alone. What is not here: manifests that lie elsewhere, which stay there.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use super::file::{self, Content, Found};
use super::gather::{Gathering, PARKED};
use super::kind::DropKind;
use super::pending::{Certainty, Hint};
use super::take::is_whole;
use super::{Worker, names};
use crate::disk::Needs;
use crate::model::config::Settings;
use crate::model::error::{Error, Kind, Result};
use crate::model::{parse, planner};
use crate::service::queue::{DroppedFile, FileIdentity};

/// By the name of a manifest, the batch that it belongs to.
pub(super) type Claims = BTreeMap<String, String>;

/// What has become of the manifests that a batch names.
pub(super) enum Siblings {
    /// All that can be hoped for are there.
    There(Vec<DroppedFile>),
    /// It is looked at again later.
    Awaited,
}

impl Worker {
    /// Which manifests of the drop directory belong to batches there.
    ///
    /// Only what may be read anyway is looked into: an open that comes before the file has held still would be taken for a writer's.
    pub(super) fn claims(&mut self, due: &[OsString], settings: &Settings, now: Instant) -> Claims {
        let settle = Duration::try_from_secs_f64(settings.intake.settle_manifest_s).unwrap_or_default();
        for name in due {
            let Ok(text) = names::readable(name) else { continue };
            if names::is_ignored(name) || DropKind::of(name) != DropKind::Manifest {
                continue;
            }
            let path = self.places.incoming.join(name);
            let Ok(Found::Plain(identity)) = file::look(&path) else { continue };
            let is_known = self.batches.known.get(text).is_some_and(|(same, _)| *same == identity);
            if is_known || self.pending.may_read(name, identity, settle, now).is_none() {
                continue;
            }
            self.batches.opened.insert(text.to_owned());
            // What cannot be read names nothing; that it cannot is said when its turn comes.
            if let Ok(Content::Whole(bytes, identity)) = file::read(&path) {
                let extents = named(&bytes, text, &self.places.incoming);
                if !extents.is_empty() {
                    self.batches
                        .known
                        .insert(text.to_owned(), (identity, Needs { extents, ..Needs::default() }));
                }
            }
        }
        // One that has gone, or is another file by now, names nothing any more.
        let incoming = &self.places.incoming;
        self.batches.known.retain(|name, (identity, _)| {
            matches!(file::look(&incoming.join(name)), Ok(Found::Plain(same)) if same == *identity)
        });
        let Gathering { known, opened, waits } = &mut self.batches;
        opened.retain(|name| known.contains_key(name));
        waits.retain(|name, _| known.contains_key(name));
        let mut claims = Claims::new();
        for (batch, (_, needs)) in known {
            for name in needs.extents.iter().filter(|name| *name != batch) {
                claims.entry(name.clone()).or_insert_with(|| batch.clone());
            }
        }
        claims
    }

    /// A manifest that belongs to a batch: it waits for that.
    pub(super) fn park_with_batch(&mut self, name: &OsStr, batch: &str, now: Instant) {
        self.pending.note(batch.as_ref(), Hint::Listed, now);
        self.pending.hasten(batch.as_ref(), now);
        self.pending.postpone(name, now + PARKED);
    }

    /// The manifests beside a batch that it names.
    pub(super) fn siblings(
        &mut self,
        batch: (&OsString, FileIdentity),
        bytes: &[u8],
        settings: &Settings,
        now: Instant,
    ) -> Result<Siblings> {
        let (name, identity) = batch;
        let Ok(text) = names::readable(name) else { return Ok(Siblings::There(Vec::new())) };
        let wanted = named(bytes, text, &self.places.incoming);
        let settle = Duration::try_from_secs_f64(settings.intake.settle_manifest_s).unwrap_or_default();
        let (mut there, mut missing, mut open) =
            (vec![DroppedFile { name: text.to_owned(), identity }], false, false);
        for sibling in wanted.iter().filter(|sibling| *sibling != text) {
            let os_name = OsStr::new(sibling);
            let found = self.places.look(os_name).map_err(|error| {
                Error::io(Kind::Manifest, "look at", &self.places.incoming.join(sibling), &error)
            })?;
            let Found::Plain(identity) = found else {
                missing |= found == Found::Nothing;
                continue;
            };
            self.pending.note(os_name, Hint::Listed, now);
            open |= match self.pending.may_read(os_name, identity, settle, now) {
                Some(Certainty::RenamedIn | Certainty::HeldStill) => false,
                Some(Certainty::IfItParses) => {
                    let whole = self.parses(sibling);
                    if !whole {
                        self.pending.settle(os_name, Some(identity), settle, now);
                    }
                    !whole
                }
                None => true,
            };
            there.push(DroppedFile { name: sibling.clone(), identity });
        }
        let limit = Duration::try_from_secs_f64(settings.intake.companion_wait_s).unwrap_or_default();
        let until = match (missing, open) {
            (true, _) => self.batches.waits_until(text, &there, limit, now),
            (false, true) => Some(now + settle.max(Duration::from_millis(100))),
            (false, false) => None,
        };
        if let Some(until) = until {
            self.pending.postpone(name, until.max(now + Duration::from_millis(1)));
            return Ok(Siblings::Awaited);
        }
        self.batches.waits.remove(text);
        Ok(Siblings::There(if there.len() > 1 { there } else { Vec::new() }))
    }

    fn parses(&mut self, name: &str) -> bool {
        self.batches.opened.insert(name.to_owned());
        let read = file::read(&self.places.incoming.join(name));
        matches!(read, Ok(Content::Whole(bytes, _)) if parse::is_whole(&bytes) && is_whole(&bytes))
    }

    /// A manifest has come: some batch may wait for it.
    pub(super) fn hasten_batches(&mut self, now: Instant) {
        for waiting in self.batches.waiting() {
            self.pending.hasten(waiting.as_ref(), now);
        }
    }
}

/// The names of the files beside it that a batch names.
fn named(bytes: &[u8], name: &str, incoming: &std::path::Path) -> Vec<String> {
    let paths = planner::manifests_named(bytes, name, incoming);
    let beside = paths.iter().filter(|path| path.parent() == Some(incoming));
    beside.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect()
}
