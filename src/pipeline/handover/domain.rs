//! The machine as it is handed over: what the plan and the guest say, where its disks lie now, who made it, and what this host can run.

use std::path::PathBuf;

use sha2::{Digest, Sha256};

use super::handover;
use crate::model::error::{Error, Result};
use crate::model::machine::{DiskVolume, Machine, Virtualization};
use crate::model::provenance::{ConfiguredAddress, Provenance};
use crate::pipeline::target;
use crate::pipeline::worker::Job;
use crate::sys::time::{now_epoch, rfc3339_utc};

/// Where volumes lie that are none.
const DEVICES: &str = "/dev";

/// The machine around its results, or around the volumes that they went into.
pub(super) fn machine(job: &Job<'_>) -> Result<Machine> {
    let lost = || Error::internal("what is handed to libvirt is not written down");
    let intent = job.checkpoint.intent.as_ref().ok_or_else(lost)?;
    let told = handover(&job.checkpoint).ok_or_else(lost)?;
    let paths: Vec<PathBuf> = intent.renames.iter().map(|rename| rename.path(job.place.dirs())).collect();
    let mut machine = target::machine(job.plan, &job.checkpoint, &paths).ok_or_else(lost)?;
    for disk in &mut machine.disks {
        if let Some(volume) = told.volumes.iter().find(|volume| volume.disk == disk.id) {
            disk.path.clone_from(&volume.path);
            // A volume that is a file is told as that: it can hold snapshots itself.
            let is_file = volume.path.is_absolute() && !volume.path.starts_with(DEVICES);
            disk.volume =
                (!is_file).then(|| DiskVolume { pool: volume.pool.clone(), name: volume.volume.clone() });
        }
    }
    if machine.uuid.is_none() {
        machine.uuid = Some(uuid(job));
    }
    if !job.kvm().works {
        machine.virtualization = Virtualization::Emulated;
    }
    machine.provenance = Some(provenance(job));
    Ok(machine)
}

/// Its own for good: defined again, it is the same machine.
fn uuid(job: &Job<'_>) -> String {
    let directory = job.plan.output.directory.to_string_lossy();
    let hash = Sha256::digest(format!("uuid\0{}\0{}\0{directory}", job.order.batch_id, job.plan.vm_id));
    let mut bytes = [0_u8; 16];
    bytes.copy_from_slice(&hash[..16]);
    // Version 8: made by a rule of our own.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

fn provenance(job: &Job<'_>) -> Provenance {
    let input = &job.plan.input;
    let nics = job.plan.guest.nics.iter();
    let addresses = nics.flat_map(|nic| {
        let plain = |address: &String| address.split('/').next().unwrap_or_default().to_owned();
        nic.addresses
            .iter()
            .map(move |address| ConfiguredAddress { mac: nic.mac.clone(), address: plain(address) })
    });
    Provenance {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        batch_id: job.order.batch_id.clone(),
        vm_id: job.plan.vm_id.clone(),
        made_at: rfc3339_utc(now_epoch()),
        source: input.source_vm_name.clone().or_else(|| input.source_vm_id.clone()),
        addresses: addresses.collect(),
    }
}
