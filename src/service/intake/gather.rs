//! Disks as drops: from a file that seems to be complete to a candidate with all files that belong to it.
//!
//! What belongs together is told by what lies in the directory now (`lot`), looked at anew each time. Remembered is only what
//! makes that cheap (what each file names) and when the waiting began for what is not there yet. A companion is parked: it is
//! moved with the file after which the drop is called.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::checksum::{self, Checksum};
use super::file::{self, Found};
use super::kind::{self, DropKind};
use super::lot::{self, Companions, Lot, Neighbours};
use super::pending::{Certainty, Hint};
use super::take::{Candidate, not_a_drop};
use super::{Worker, names};
use crate::disk::Needs;
use crate::model::config::{PathSettings, Settings};
use crate::model::error::{Error, Kind, Result};
use crate::model::planner::Submission;
use crate::pipeline::described;
use crate::service::queue::{Brought, DroppedFile, FileIdentity, NewDrop};

/// A file that belongs to another is looked at again after this, should that have gone away.
pub(super) const PARKED: Duration = Duration::from_secs(60);

/// What is remembered of files in the drop directory that belong together.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// What each file names, as long as it is the same file.
    pub(super) known: BTreeMap<String, (FileIdentity, Needs)>,
    pub(super) waits: BTreeMap<String, Wait>,
    /// Those that we have opened since they came: the kernel tells of that as if somebody wrote them.
    pub(super) opened: BTreeSet<String>,
}

/// A drop that is not all there.
#[derive(Debug)]
pub(super) struct Wait {
    since: Instant,
    /// What of it was there then.
    seen: Vec<DroppedFile>,
}

impl Gathering {
    /// The files that wait for others.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &String> {
        self.waits.keys()
    }

    /// Whether what was seen happening to a file was we who looked into it. A link that is looked into while it has to hold still
    /// would otherwise be taken for a file that somebody writes.
    pub(super) fn was_us(&mut self, name: &OsStr, hint: Hint) -> bool {
        let Some(name) = name.to_str() else { return false };
        match hint {
            Hint::BeingWritten => self.opened.remove(name),
            // Another file of this name, which we have not opened.
            Hint::Created => {
                self.opened.remove(name);
                false
            }
            Hint::RenamedIn | Hint::Closed | Hint::Listed => false,
        }
    }

    /// Until when a drop goes on waiting; `None`: it has waited long enough. Begins anew whenever something of it has come or grown.
    pub(super) fn waits_until(
        &mut self,
        main: &str,
        seen: &[DroppedFile],
        limit: Duration,
        now: Instant,
    ) -> Option<Instant> {
        let wait =
            self.waits.entry(main.to_owned()).or_insert_with(|| Wait { since: now, seen: seen.to_vec() });
        if wait.seen != seen {
            *wait = Wait { since: now, seen: seen.to_vec() };
        }
        let until = wait.since + limit;
        (now < until).then_some(until)
    }
}

/// The files of one drop that are there.
struct Files {
    companions: Companions,
    /// The one after which it is called first, checksums last.
    all: Vec<DroppedFile>,
}

impl Worker {
    /// A file that is named like a disk and that may be a drop.
    pub(super) fn look_at_disk(
        &mut self,
        name: &OsStr,
        kind: DropKind,
        identity: FileIdentity,
        settings: &Settings,
    ) -> Result<Option<Box<Candidate>>> {
        let now = Instant::now();
        let Some(certainty) = self.arrived(name, identity, settings, now) else { return Ok(None) };
        let text = match names::readable(name) {
            Ok(text) => text,
            Err(why) => {
                let error = not_a_drop(why).advice("give it a plain name and drop it again");
                self.refuse(name, identity, &[], &error)?;
                return Ok(None);
            }
        };
        let neighbours = self.neighbours()?;
        let mains = lot::mains_of(text, &neighbours);
        if !mains.contains(text) {
            self.park(name, &mains, now);
            return Ok(None);
        }
        let files = self.files_of(text, &neighbours)?;
        if files.all.first().is_none_or(|main| main.identity != identity) {
            self.pending.settle(name, None, settle(settings), now);
            return Ok(None);
        }
        if let Some(shared) = files.companions.shared.first() {
            let why = format!("`{shared}` belongs to other disks too; drop manifests that name them");
            self.report(name, identity, Kind::Source, &why);
            return Ok(None);
        }
        let checksum = checksum::beside(&self.places.incoming, text);
        let is_extent = neighbours.get(text).is_some_and(|needs| needs.is_extent);
        if let Some(lacking) = lacking(text, is_extent, &files.companions, &checksum) {
            let limit = Duration::try_from_secs_f64(settings.intake.companion_wait_s).unwrap_or_default();
            match self.gathering.waits_until(text, &files.all, limit, now) {
                Some(until) if files.companions.strange.is_empty() => {
                    self.pending.postpone(name, until.max(now + Duration::from_millis(1)));
                }
                _ => self.refuse(name, identity, &files.all, &lacking)?,
            }
            return Ok(None);
        }
        self.gathering.waits.remove(text);
        // Companions that have not held still wake it when they have.
        let mut all_there = true;
        for file in files.all.iter().skip(1).filter(|file| files.companions.there.contains(&file.name)) {
            self.pending.note(file.name.as_ref(), Hint::Listed, now);
            all_there &= self.arrived(file.name.as_ref(), file.identity, settings, now).is_some();
        }
        if !all_there {
            self.pending.postpone(name, now + PARKED);
            return Ok(None);
        }
        self.make(name, kind, (certainty, checksum), &files, settings)
    }

    /// The candidate, or a refusal, of a disk that is there with all its files.
    fn make(
        &mut self,
        name: &OsStr,
        kind: DropKind,
        (certainty, checksum): (Certainty, Checksum),
        files: &Files,
        settings: &Settings,
    ) -> Result<Option<Box<Candidate>>> {
        let Some(identity) = files.all.first().map(|file| file.identity) else { return Ok(None) };
        let checksum = match &checksum {
            Checksum::Is(digits) => Some(digits.as_str()),
            Checksum::None | Checksum::Unreadable => None,
        };
        let lot = Lot {
            main: &self.places.incoming.join(name),
            files: &files.all,
            is_chain: files.companions.is_chain,
            checksum,
            profile: &settings.intake.profile,
        };
        let made = match kind.make(&lot) {
            Ok(made) => made,
            // The storage, not the disk: it is tried again.
            Err(error) if !matches!(error.kind(), Kind::Source | Kind::Unsupported) => return Err(error),
            Err(error) => {
                self.refuse(name, identity, &files.all, &error)?;
                return Ok(None);
            }
        };
        if !made.is_known_whole && checksum.is_none() && certainty != Certainty::RenamedIn {
            self.report(
                name,
                identity,
                Kind::Source,
                "nothing in it tells whether it is whole; rename it into place, or put its checksum beside it (`<name>.sha256`)",
            );
            return Ok(None);
        }
        match self.offer_of(name, &made.manifests, files.all.clone(), settings) {
            Ok(drop) => Ok(Some(Box::new(Candidate::of_disk(name.to_owned(), identity, drop)))),
            Err(error) => {
                self.refuse(name, identity, &files.all, &error.without_file(&name.to_string_lossy()))?;
                Ok(None)
            }
        }
    }

    fn offer_of(
        &self,
        name: &OsStr,
        manifests: &[Value],
        files: Vec<DroppedFile>,
        settings: &Settings,
    ) -> Result<NewDrop> {
        // Nobody names its place, so what may be named does not bind it.
        let paths = PathSettings { read: Vec::new(), ..settings.paths.clone() };
        let settings = Settings { paths, ..settings.clone() };
        let incoming = self.places.incoming.clone();
        let read = |manifest: &Value| {
            described::submission(
                manifest.to_string().as_bytes(),
                &name.to_string_lossy(),
                &incoming,
                &settings,
            )
        };
        let submission = Submission::together(manifests.iter().map(read).collect::<Result<_>>()?)?;
        let bytes = match manifests {
            [one] => one.to_string().into_bytes(),
            several => Value::from(several).to_string().into_bytes(),
        };
        let processing = settings.layout().processing();
        Ok(NewDrop::of_disk(bytes, Brought { files, incoming, processing }, submission))
    }

    /// How far a disk can be relied on to be complete; `None`: not yet, and it is looked at again later.
    fn arrived(
        &mut self,
        name: &OsStr,
        identity: FileIdentity,
        settings: &Settings,
        now: Instant,
    ) -> Option<Certainty> {
        let settle = settle(settings);
        match self.pending.may_read(name, identity, settle, now)? {
            // Nothing parses a disk whole: closed or not, it has to hold still.
            Certainty::IfItParses => {
                self.pending.settle(name, Some(identity), settle, now);
                None
            }
            certainty => Some(certainty),
        }
    }

    /// It goes with another file, which is told that it is there.
    fn park(&mut self, name: &OsStr, mains: &BTreeSet<String>, now: Instant) {
        for main in mains {
            self.pending.note(main.as_ref(), Hint::Listed, now);
            self.pending.hasten(main.as_ref(), now);
        }
        self.pending.postpone(name, now + PARKED);
    }

    /// What every plain file that is named like a disk names.
    fn neighbours(&mut self) -> Result<Neighbours> {
        let incoming = &self.places.incoming;
        let told = |error: std::io::Error| Error::io(Kind::Output, "list", incoming, &error);
        let (mut known, mut neighbours) = (BTreeMap::new(), Neighbours::new());
        for entry in std::fs::read_dir(incoming).map_err(told)? {
            let name = entry.map_err(told)?.file_name();
            let kind = DropKind::of(&name);
            let Ok(text) = names::readable(&name) else { continue };
            if !kind.brings_files() || names::is_ignored(&name) {
                continue;
            }
            let path = incoming.join(&name);
            let Found::Plain(identity) = file::look(&path).map_err(told)? else { continue };
            let needs = match self.gathering.known.remove(text) {
                Some((same, needs)) if same == identity => needs,
                // What cannot be read names nothing; that it cannot is said when its turn comes.
                _ => {
                    self.gathering.opened.insert(text.to_owned());
                    kind.needs(&path).unwrap_or_default()
                }
            };
            known.insert(text.to_owned(), (identity, needs.clone()));
            neighbours.insert(text.to_owned(), needs);
        }
        lot::settle_cases(&mut neighbours);
        self.gathering.known = known;
        self.gathering.opened.retain(|name| neighbours.contains_key(name));
        self.gathering.waits.retain(|name, _| neighbours.contains_key(name));
        Ok(neighbours)
    }

    fn files_of(&self, main: &str, neighbours: &Neighbours) -> Result<Files> {
        let incoming = &self.places.incoming;
        let companions = lot::companions(main, neighbours);
        let disks: Vec<&str> =
            [main].into_iter().chain(companions.there.iter().map(String::as_str)).collect();
        let mut sums: Vec<String> = disks.iter().map(|disk| checksum::name_for(disk)).collect();
        sums.extend(kind::beside(main));
        let mut all = Vec::new();
        for name in disks.into_iter().chain(sums.iter().map(String::as_str)) {
            let path = incoming.join(name);
            let found =
                file::look(&path).map_err(|error| Error::io(Kind::Source, "look at", &path, &error))?;
            if let Found::Plain(identity) = found {
                all.push(DroppedFile { name: name.to_owned(), identity });
            }
        }
        Ok(Files { companions, all })
    }

    /// Its files have left the drop directory, or are looked at each for itself.
    pub(super) fn forget_disk(&mut self, files: &[DroppedFile]) {
        for file in files {
            let name = OsString::from(&file.name);
            self.pending.forget(&name);
            self.reported.remove(&name);
            self.gathering.waits.remove(&file.name);
        }
    }
}

fn settle(settings: &Settings) -> Duration {
    Duration::try_from_secs_f64(settings.intake.settle_disk_s).unwrap_or_default()
}

/// What keeps a disk from being taken that is there itself.
fn lacking(main: &str, is_extent: bool, companions: &Companions, checksum: &Checksum) -> Option<Error> {
    let source = |cause: String| Error::new(Kind::Source, cause);
    let listed =
        |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    if !companions.strange.is_empty() {
        let names = listed(&companions.strange);
        return Some(
            source(format!("{main} names {names}, and only disks beside it are taken along"))
                .advice("drop a manifest that names it, with `backing_chain` and `allowed_paths`"),
        );
    }
    if !companions.missing.is_empty() {
        let names = listed(&companions.missing);
        return Some(source(format!("{main} needs files that have not come: {names}")).advice(
            "drop all files of the disk together; `intake.companion_wait_s` says how long they may take",
        ));
    }
    if is_extent {
        return Some(
            source(format!("{main} is one extent of a disk, and the descriptor that names it has not come"))
                .advice("drop the descriptor, the small .vmdk text file, with it"),
        );
    }
    (*checksum == Checksum::Unreadable).then(|| {
        source(format!("{} holds no SHA-256 of {main}", checksum::name_for(main)))
            .advice("write it with `sha256sum`, or remove it")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &str, size: u64) -> DroppedFile {
        DroppedFile { name: name.to_owned(), identity: FileIdentity { dev: 1, inode: 2, size, mtime_ns: 3 } }
    }

    #[test]
    fn a_wait_begins_anew_when_something_has_come_or_grown_and_ends_when_nothing_does() {
        let (mut gathering, start) = (Gathering::default(), Instant::now());
        let limit = Duration::from_secs(10);
        let mut at = |files: &[DroppedFile], seconds| {
            gathering.waits_until("web.vmdk", files, limit, start + Duration::from_secs(seconds))
        };
        let alone = [file("web.vmdk", 1)];
        assert_eq!(at(&alone, 0), Some(start + limit));
        let two = [file("web.vmdk", 1), file("web-1.vmdk", 5)];
        assert_eq!(at(&two, 9), Some(start + Duration::from_secs(19)));
        let grown = [file("web.vmdk", 1), file("web-1.vmdk", 6)];
        assert_eq!(at(&grown, 18), Some(start + Duration::from_secs(28)));
        assert!(at(&grown, 27).is_some());
        assert_eq!(at(&grown, 28), None);
    }

    #[test]
    fn what_is_lacking_is_named() {
        let companions = |missing: &[&str], strange: &[&str]| Companions {
            missing: missing.iter().map(|&name| name.to_owned()).collect(),
            strange: strange.iter().map(|&name| name.to_owned()).collect(),
            ..Companions::default()
        };
        let said = |is_extent, companions: &Companions, checksum: &Checksum| {
            lacking("web.vmdk", is_extent, companions, checksum).map(|error| error.to_string())
        };
        assert_eq!(said(false, &companions(&[], &[]), &Checksum::None), None);
        for (said, word) in [
            (said(false, &companions(&["a.vmdk", "b.vmdk"], &[]), &Checksum::None), "`a.vmdk`, `b.vmdk`"),
            (said(false, &companions(&[], &["/srv/base.vmdk"]), &Checksum::None), "`/srv/base.vmdk`"),
            (said(true, &companions(&[], &[]), &Checksum::None), "descriptor"),
            (said(false, &companions(&[], &[]), &Checksum::Unreadable), "web.vmdk.sha256"),
        ] {
            assert!(said.as_ref().is_some_and(|said| said.contains(word)), "{said:?}");
        }
    }
}
