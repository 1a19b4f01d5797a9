//! Where the results go: whether names are free, the directory can be used, and all of it fits.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Scene, Validator};
use crate::disk::most_bytes;
use crate::model::error::{Error, Kind};
use crate::model::plan::{Compression, OutputFormat, Plan, PlannedDisk};
use crate::model::protocol::WorkLimits;
use crate::model::units::human_size;
use crate::model::validation::Findings;
use crate::pipeline::publish::Names;
use crate::pipeline::within_roots;
use crate::sys::fs::{free_bytes, most_file_bytes};

/// Of the data of a VMDK that grows, no more can be told where it is.
const MOST_VMDK_DATA_BYTES: u64 = 2 << 40;

pub(super) struct Target;

impl Validator for Target {
    fn name(&self) -> &'static str {
        "target"
    }

    fn applies(&self, _: &Scene<'_>) -> bool {
        true
    }

    fn look(&self, scene: &Scene<'_>, findings: &mut Findings) {
        let plan = scene.plan;
        let directory = &plan.output.directory;
        match scene.results {
            Some(results) => {
                if let Err(error) = Names::choose(plan, results) {
                    let rule = match error.kind() {
                        Kind::Exists => "target.exists",
                        _ => "target.directory",
                    };
                    findings.add(rule, None, error);
                }
            }
            None => {
                let inside = within_roots(directory, &scene.limits.write_roots);
                if let Err(error) = inside.and_then(|()| usable(directory)) {
                    findings.add("target.directory", None, error);
                }
            }
        }
        for (disk, source) in scene.disks() {
            let Ok(source) = source else { continue };
            let size = source.facts.virtual_size;
            let size = disk.resize.and_then(|growth| growth.applied_to(size)).unwrap_or(size);
            if let Some(error) = too_large(plan.format_of(disk), size) {
                findings.add("target.format", Some(&disk.id), error);
            }
        }
    }
}

/// Whether a directory that is not there can be made.
fn usable(directory: &Path) -> Result<(), Error> {
    let failed = |why: String| {
        Error::new(Kind::Output, format!("{} {why}", directory.display()))
            .output(directory)
            .advice("choose a directory that may be written to, or let this user write there")
    };
    let there = directory.ancestors().find(|path| path.symlink_metadata().is_ok());
    let Some(there) = there else { return Err(failed("cannot be made".to_owned())) };
    if there == directory && there.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink()) {
        return Err(failed("is a symbolic link".to_owned()));
    }
    if !there.is_dir() {
        return Err(failed(format!("cannot be made: {} is no directory", there.display())));
    }
    let access = rustix::fs::access(there, rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK);
    access.map_err(|error| failed(format!("cannot be written to: {}: {error}", there.display())))
}

fn too_large(format: OutputFormat, size: u64) -> Option<Error> {
    let most = most_bytes(format);
    (size > most).then(|| {
        let (name, most) = (format.name(), most >> 30);
        Error::new(
            Kind::Unsupported,
            format!("a {name} holds at most {most} GiB, and the disk has {size} bytes"),
        )
        .field("output.format")
        .advice("choose another `output.format`: qcow2 and raw hold any disk")
    })
}

/// What a result may take, once that was measured.
#[derive(Debug, Clone)]
pub(in crate::pipeline) struct Fit<'a> {
    /// Which disk.
    pub(in crate::pipeline) disk: &'a PlannedDisk,
    /// What the guest sees of it.
    pub(in crate::pipeline) virtual_size: u64,
    /// What the result occupies at most.
    pub(in crate::pipeline) required_bytes: u64,
    /// How much of it is data.
    pub(in crate::pipeline) data_bytes: u64,
    /// What of it is still to be written.
    pub(in crate::pipeline) need: u64,
}

/// Whether the results fit into their directories: each by itself, and all that is still to be written on each file system. `fixes`: what
/// repairs still take, in the VM's own directory.
pub(in crate::pipeline) fn check_fit(
    plan: &Plan,
    limits: &WorkLimits,
    fits: &[Fit<'_>],
    fixes: u64,
    findings: &mut Findings,
) {
    for fit in fits {
        check_one(plan, fit, findings);
    }
    let own = plan.output.directory.as_path();
    let mut shares = BTreeMap::<u64, (&Path, u64)>::new();
    let needs = fits.iter().map(|fit| (fit.disk.elsewhere().unwrap_or(own), fit.need));
    for (directory, need) in std::iter::once((own, fixes)).chain(needs) {
        let there = place(directory);
        match free_bytes(there) {
            Ok(space) => {
                let share = shares.entry(space.fs_id).or_insert((there, 0));
                share.1 = share.1.saturating_add(need);
            }
            Err(error) => {
                findings.add("target.space", None, Error::io(Kind::Output, "look at", there, &error));
            }
        }
    }
    for (path, need) in shares.into_values() {
        // Elsewhere the service has seen to what others need.
        let others = if path == place(own) { limits.reserved_by_others_bytes } else { 0 };
        if let Some(error) = no_room(limits.disk_reserve_bytes, others, path, need) {
            findings.add("target.space", None, error);
        }
    }
}

fn check_one(plan: &Plan, fit: &Fit<'_>, findings: &mut Findings) {
    let directory = fit.disk.elsewhere().unwrap_or(&plan.output.directory);
    let format = plan.format_of(fit.disk);
    let length = match format {
        OutputFormat::Raw => fit.virtual_size,
        _ => fit.required_bytes,
    };
    if let Some(longest) = most_file_bytes(place(directory)).filter(|longest| length > *longest) {
        let (length, longest) = (human_size(length), human_size(longest));
        findings.add(
            "target.file_size",
            Some(&fit.disk.id),
            Error::new(
                Kind::Output,
                format!("the result may have {length}, and a file there has at most {longest}"),
            )
            .output(directory)
            .advice("choose a directory on another file system, or a format that grows (qcow2)"),
        );
    }
    let grows = format == OutputFormat::Vmdk && plan.output.compress == Compression::None;
    if grows && fit.data_bytes > MOST_VMDK_DATA_BYTES {
        findings.add(
            "target.format",
            Some(&fit.disk.id),
            Error::new(
                Kind::Unsupported,
                format!(
                    "a vmdk holds at most 2 TiB of data, and the disk has {}",
                    human_size(fit.data_bytes)
                ),
            )
            .field("output.format")
            .advice("choose another `output.format`: qcow2 and raw hold any disk"),
        );
    }
}

/// The directory itself, or what it would be made in.
fn place(directory: &Path) -> &Path {
    directory.ancestors().find(|path| path.exists()).unwrap_or(directory)
}

/// What is still to be written has to fit, with what others have reserved and what has to stay free.
fn no_room(reserve: u64, others: u64, path: &Path, need: u64) -> Option<Error> {
    let space = match free_bytes(path) {
        Ok(space) => space,
        Err(error) => return Some(Error::io(Kind::Output, "look at", path, &error)),
    };
    let usable = space.free.saturating_sub(reserve).saturating_sub(others);
    (need > usable).then(|| {
        Error::new(
            Kind::DiskSpace,
            format!(
                "{} needs {} but only {} of {} may be used ({} stay free, {} are reserved by other jobs)",
                path.display(),
                human_size(need),
                human_size(usable),
                human_size(space.free),
                human_size(reserve),
                human_size(others),
            ),
        )
        .advice("free some space there or choose another directory")
        .output(path)
        .space(need, usable)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_that_cannot_hold_a_disk_is_told_and_what_just_fits_is_not() {
        assert!(too_large(OutputFormat::Vhd, 2040 << 30).is_none());
        let error = too_large(OutputFormat::Vhd, (2040 << 30) + 1).unwrap();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(error.to_string().contains("at most 2040 GiB"), "{error}");
        assert!(too_large(OutputFormat::Vmdk, (64 << 40) + 1).is_some());
        assert!(too_large(OutputFormat::Vdi, 1 << 50).is_some());
        assert!(too_large(OutputFormat::Qcow2, 64 << 40).is_none());
    }
}
