//! What libvirt will be told, for a person. What is not here: what of it libvirt lacks, which `validate --deep` tells.

use std::fmt::Write as _;

use super::table::printable;
use crate::model::plan::Plan;

/// All of it, in the order in which it is done; nothing where libvirt is told nothing.
pub(super) fn over(plan: &Plan) -> String {
    let Some(planned) = &plan.libvirt else { return String::new() };
    let mut lines = Vec::new();
    for disk in &plan.disks {
        if let Some(pool) = plan.made_in(disk) {
            let path = plan.result_path(disk);
            let volume = path.file_name().unwrap_or_default().to_string_lossy();
            lines.push(format!(
                "disk {} is made in the pool {pool}, as {volume}: it lies there from its first byte",
                disk.id
            ));
        }
        let Some(pool) = planned.pools.get(&disk.id) else { continue };
        let volume = planned.volume(&disk.id, plan.format_of(disk).name());
        let how = if planned.copy_disks { "goes as" } else { "is moved as" };
        let gives_way = if planned.overwrite_volumes { ", in the place of one of that name" } else { "" };
        lines.push(format!("disk {} {how} {volume} into the pool {pool}{gives_way}", disk.id));
    }
    if let Some(path) = planned.pool_path.as_ref().filter(|_| !planned.pools.is_empty()) {
        lines.push(format!("a pool that is missing is made in {}", path.display()));
    }
    if planned.define {
        let gives_way = if planned.overwrite_domain {
            ", in the place of one that hyper2kvm made and that is off"
        } else {
            ""
        };
        lines.push(format!("the machine {} is defined{gives_way}", planned.name));
    }
    lines
        .extend(planned.snapshot.iter().map(|name| format!("a snapshot {name} is made before it ever runs")));
    lines.extend(planned.autostart.then(|| "it starts with the host".to_owned()));
    lines.extend(planned.start.then(|| "it is started".to_owned()));
    lines.extend(
        (planned.allow_live_clone && planned.define)
            .then(|| "all of that also while its source may run, with the same addresses".to_owned()),
    );
    let mut text = format!("\nlibvirt ({})\n", printable(&planned.uri));
    for line in lines {
        let _ = writeln!(text, "  {}", printable(&line));
    }
    text
}
