//! On which host a machine of a vCenter lies. What is not here: reaching it.

use crate::model::error::{Error, Kind, Result};
use crate::model::manifest::values::HostName;
use crate::vsphere::machine::Machine;
use crate::vsphere::property::{self, Wanted};
use crate::vsphere::soap::MoRef;
use crate::vsphere::{Client, failure};

const RUNS_ON: Wanted = Wanted { kind: "VirtualMachine", paths: &["runtime.host"] };
const NAME: Wanted = Wanted { kind: "HostSystem", paths: &["name"] };

/// The name under which a machine's host is reached. One that is asked itself is reached as it was.
pub(crate) fn of_machine(client: &Client, machine: &Machine) -> Result<String> {
    if !client.about().is_vcenter {
        return Ok(client.host().to_owned());
    }
    let what = format!("cannot find the host of {}", machine.name);
    let mut host = None;
    let vm = MoRef::new("VirtualMachine", &machine.moref);
    property::of_objects(client, &[vm], &[RUNS_ON], |found| {
        host = found.object_at("runtime.host");
        Ok(())
    })
    .map_err(|failure| failure::told(&what, failure))?;
    let mut name = None;
    if let Some(host) = host {
        property::of_objects(client, &[host], &[NAME], |found| {
            name = found.text("name").map(str::to_owned);
            Ok(())
        })
        .map_err(|failure| failure::told(&what, failure))?;
    }
    name.filter(|name| HostName::new(name).is_ok()).ok_or_else(|| {
        Error::new(Kind::Source, what)
            .advice("see in vCenter on which host it lies; its name there is the one that is reached")
    })
}
