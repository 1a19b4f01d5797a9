//! How a source is by now, for whoever is about to run what was made of it.
//!
//! A host that is reached by its shell alone does not say whether a machine runs, but lets nobody read the disks of one that does. What is not here: what
//! follows from it ([`crate::pipeline::still_off`]).

use super::again::{Whom, find_again, log_in};
use super::ask;
use crate::disk::{Control, Remote, Room};
use crate::model::error::Result;
use crate::vsphere::machine::{self, Machine};

/// Of a disk whose machine runs, a host gives not even that.
const FIRST_BYTES: usize = 512;

/// How it is; none: it is gone.
pub(in crate::pipeline) fn stand(whom: Whom<'_>, control: &Control) -> Result<Option<Machine>> {
    let (access, remote, limits) = whom;
    if remote.on_host().is_some() {
        let source = ask(access, remote, limits, control)?;
        source.opened.iter().try_for_each(|(_, disk)| can_be_read(disk.as_ref(), control))?;
        return Ok(Some(source.machine));
    }
    let client = log_in(whom, control)?;
    find_again(&client, remote)?.map(|vm| machine::machine(&client, &vm)).transpose()
}

fn can_be_read(disk: &dyn Remote, control: &Control) -> Result<()> {
    disk.reader(control)?.read(0, &mut [0; FIRST_BYTES], &mut Room::default())
}
