//! Looking into the disks of one machine without converting it: what `inspect` tells, and what a repair would change.
//!
//! The guest is opened as in a conversion: in the confined child, through overlays that are thrown away, so that nothing is ever written
//! to a source. A rehearsed repair is a whole one, verified too; only its overlays do not stay. What is not here: how the answer is shown.

use std::path::PathBuf;

use super::guest_child::{Bearable, GuestChild, GuestFiles, GuestLimits, GuestPlace, Objects};
use super::library::DiskProcessor;
use crate::disk::{Control, Engine, SourceDisk};
use crate::guest::facts::FixOptions;
use crate::guest::inspect::Condition;
use crate::guest::work::{Event, Key, Order, OrderedDrive};
use crate::model::error::{Error, Kind, Result};
use crate::model::guest::GuestIdentity;
use crate::model::report::FixReport;
use crate::sys::kvm;
use crate::sys::scratch::Scratch;

/// An appliance that says nothing for this long hangs.
const STALL_TIMEOUT_S: f64 = 600.0;

/// What a repair would change.
#[derive(Debug, Clone, PartialEq)]
pub struct Rehearsal {
    /// The guest, as it was before.
    pub identity: GuestIdentity,
    /// What would be changed.
    pub fixes: Vec<FixReport>,
    /// How, by file, in the order in which they were first changed: unified diffs, or a line for files without text.
    pub diffs: Vec<(String, String)>,
    /// What a person should know.
    pub warnings: Vec<String>,
    /// In what state its disks are.
    pub condition: Condition,
}

impl DiskProcessor {
    /// Who lives in these disks of one machine, in the order in which it has them. `beginning` hears what is begun.
    ///
    /// That there is no operating system is an error of kind `guest` at the field `pipeline.fix.on_no_os`.
    pub fn identify(
        &self,
        disks: &[SourceDisk],
        keys: Vec<Key>,
        mut beginning: impl FnMut(&str),
    ) -> Result<GuestIdentity> {
        self.look(disks, keys, &mut beginning).map(|found| found.identity)
    }

    /// What the pre-flight sees of the guest in these disks.
    pub(super) fn look(
        &self,
        disks: &[SourceDisk],
        keys: Vec<Key>,
        beginning: &mut dyn FnMut(&str),
    ) -> Result<Rehearsal> {
        let scratch = scratch()?;
        let overlays = overlays(&scratch, disks);
        self.work_inside(disks, &overlays, keys, None, beginning)
    }

    /// What a repair of the guest in these disks would change. Nothing of it stays.
    pub fn rehearse(
        &self,
        disks: &[SourceDisk],
        keys: Vec<Key>,
        options: FixOptions,
        mut beginning: impl FnMut(&str),
    ) -> Result<Rehearsal> {
        let scratch = scratch()?;
        let overlays = overlays(&scratch, disks);
        self.work_inside(disks, &overlays, keys, Some(options), &mut beginning)
    }

    /// The work on overlays that are made at these paths, which stay.
    pub(super) fn work_inside(
        &self,
        disks: &[SourceDisk],
        overlays: &[PathBuf],
        keys: Vec<Key>,
        fix: Option<FixOptions>,
        beginning: &mut dyn FnMut(&str),
    ) -> Result<Rehearsal> {
        let scratch = scratch()?;
        let place = GuestPlace::prepare(scratch.path(), None)?;
        let limits = GuestLimits {
            stall_timeout_s: STALL_TIMEOUT_S,
            sandbox_required: false,
            bearable: Bearable::default(),
            objects: Objects::default(),
        };
        let kvm = kvm::probe(&self.engine.launcher).works;
        let opening = Opening { engine: &self.engine, control: &self.control, place: &place, limits, kvm };
        opening.work(disks, overlays, keys, fix, beginning)
    }
}

/// How the guest in some disks is opened.
pub(super) struct Opening<'a> {
    pub(super) engine: &'a Engine,
    pub(super) control: &'a Control,
    /// Where what is needed for it lies.
    pub(super) place: &'a GuestPlace,
    pub(super) limits: GuestLimits,
    /// Whether it is not emulated.
    pub(super) kvm: bool,
}

impl Opening<'_> {
    /// The work inside, on overlays that are made at these paths.
    pub(super) fn work(
        self,
        disks: &[SourceDisk],
        overlays: &[PathBuf],
        keys: Vec<Key>,
        fix: Option<FixOptions>,
        beginning: &mut dyn FnMut(&str),
    ) -> Result<Rehearsal> {
        let Opening { engine, control, place, limits, kvm } = self;
        let (mut drives, mut files) = (Vec::new(), GuestFiles::default());
        let mut served = Vec::new();
        for (disk, path) in disks.iter().zip(overlays) {
            let (seen, for_now) = disk.for_qemu(control)?;
            served.extend(for_now);
            engine.make_overlay(&seen, path, disk.facts.virtual_size, control)?;
            drives.push(OrderedDrive {
                id: disk.path.display().to_string(),
                path: path.clone(),
                format: "qcow2".to_owned(),
                grown_from: None,
            });
            files.sources.extend(disk.paths());
            files.overlays.push(path.clone());
        }
        let order = Order {
            kvm,
            memory_mb: None,
            temp: place.temp.clone(),
            log: place.log.clone(),
            drives,
            keys,
            diffs: fix.is_some(),
            fix,
        };
        beginning(if order.kvm { "the appliance starts" } else { "the appliance starts, emulated" });
        // Ends before what it reads is not served any more. Nothing works beside it that its failure would have to end.
        let limits = GuestLimits { bearable: Bearable { all: true, ..limits.bearable }, ..limits };
        let mut child = GuestChild::start(&engine.launcher, place, files, &order, limits, control)?;
        let (mut found, mut fixes, mut diffs, mut warnings) = (None, Vec::new(), Vec::new(), Vec::new());
        let mut state = Condition::default();
        while let Some(event) = child.next()? {
            match event {
                Event::Launched { .. } => beginning("the guest is looked at"),
                Event::Inspected { identity, condition, .. } => {
                    (found, state) = (Some(*identity), *condition);
                }
                Event::Fixing { name } => beginning(&format!("repairs: {name}")),
                Event::Fixed { fixes: made, .. } => fixes = made,
                Event::Diff { path, text } => diffs.push((path, text)),
                Event::Warning { message } => warnings.push(message),
                Event::Done => {}
                Event::Failed { error } => return Err(error),
            }
        }
        for disk in disks {
            disk.check_unchanged(control)?;
        }
        let identity =
            found.ok_or_else(|| Error::internal("the guest was looked at, and nothing was told of it"))?;
        Ok(Rehearsal { identity, fixes, diffs, warnings, condition: state })
    }
}

/// A private directory among the temporary ones.
fn scratch() -> Result<Scratch> {
    let temp = std::env::temp_dir();
    Scratch::make(&temp, "hyper2kvm").map_err(|error| {
        Error::io(Kind::Output, "make a directory in", &temp, &error)
            .advice("TMPDIR names the directory for temporary files; it has to be writable")
    })
}

/// Where overlays of these disks go.
fn overlays(scratch: &Scratch, disks: &[SourceDisk]) -> Vec<PathBuf> {
    (0..disks.len()).map(|index| scratch.file(&format!("{index}.qcow2"))).collect()
}
