//! Tasks: what a server does in the background, waited for until it is done.
//!
//! The server tells when something changes (`WaitForUpdatesEx`), with a collector of its own for each wait; what the task is then is asked for. Whoever
//! stops waiting leaves the task to the server. What is not here: which tasks there are.

use std::time::Duration;

use roxmltree::Node;

use super::client::Client;
use super::failure;
use super::inventory::VmRef;
use super::property::{self, Wanted, filter};
use super::soap::{self, Call, Failure, Fault, MoRef};
use crate::model::element::Element;
use crate::model::error::{Error, Result};

/// So long the server keeps a question open for which it has no news.
const OPEN: Duration = Duration::from_secs(10);
/// What a machine says of its tasks.
const RECENT: Wanted = Wanted { kind: "VirtualMachine", paths: &["recentTask"] };
const TASK: Wanted = Wanted { kind: "Task", paths: &["info"] };

/// How a task stands.
enum Stand {
    Goes { percent: Option<u8> },
    Done(Option<MoRef>),
    Failed(Box<Fault>),
}

/// Waits until nothing goes on any more at a machine: whoever began it may be gone, and what comes of it is to be known.
pub fn none_goes_on(client: &Client, vm: &VmRef) -> Result<()> {
    let what = format!("cannot see what is done with {} of {}", vm.moref, client.host());
    let mut tasks = Vec::new();
    let asked = property::of_objects(client, &[vm.object()], &[RECENT], |found| {
        let all = found.get("recentTask").into_iter();
        tasks.extend(all.flat_map(|tasks| tasks.children().filter(Node::is_element)).map(soap::moref));
        Ok(())
    });
    asked.map_err(|failure| failure::told(&what, failure))?;
    for task in tasks {
        match wait(client, &task, &mut |_| {}) {
            // How it ended is seen at the machine; one that is forgotten has ended.
            Ok(_) | Err(Failure::Fault(_)) => {}
            Err(failure) => return Err(failure::told(&what, failure)),
        }
    }
    Ok(())
}

/// Waits until a task is done; what it made, if that is an object. `told` hears how far it is.
pub(super) fn wait(
    client: &Client,
    task: &MoRef,
    told: &mut dyn FnMut(u8),
) -> Result<Option<MoRef>, Failure> {
    client.in_one_session(|| wait_in_session(client, task, told))
}

fn wait_in_session(
    client: &Client,
    task: &MoRef,
    told: &mut dyn FnMut(u8),
) -> Result<Option<MoRef>, Failure> {
    let default = &client.service().property_collector;
    let own =
        client.call(&Call::reads("CreatePropertyCollector", default, Vec::new()), soap::returned_object)?;
    let done = wait_with(client, &own, task, told);
    // It would end with the session, too.
    let _ = client.call(&Call::reads("DestroyPropertyCollector", &own, Vec::new()), |_| Ok(()));
    done
}

fn wait_with(
    client: &Client,
    collector: &MoRef,
    task: &MoRef,
    told: &mut dyn FnMut(u8),
) -> Result<Option<MoRef>, Failure> {
    let object = Element::new("objectSet").child(task.element("obj"));
    let arguments = vec![filter("spec", &[TASK], vec![object]), Element::text("partialUpdates", false)];
    client.call(&Call::reads("CreateFilter", collector, arguments), |_| Ok(()))?;
    let mut version = String::new();
    loop {
        let options = Element::new("options").child(Element::text("maxWaitSeconds", OPEN.as_secs()));
        let call =
            Call::reads("WaitForUpdatesEx", collector, vec![Element::text("version", &version), options]);
        // Without news nothing is returned.
        let news = client.call_within(&call, OPEN + client.patience().timeout, |answer| {
            Ok(soap::child(answer, "returnval").and_then(|set| soap::text(set, "version").map(str::to_owned)))
        })?;
        version = news.unwrap_or(version);
        match stand(client, task)? {
            Stand::Done(made) => return Ok(made),
            Stand::Failed(fault) => return Err(Failure::Fault(fault)),
            Stand::Goes { percent } => percent.into_iter().for_each(&mut *told),
        }
    }
}

fn stand(client: &Client, task: &MoRef) -> Result<Stand, Failure> {
    let mut stand = None;
    property::of_objects(client, std::slice::from_ref(task), &[TASK], |found| {
        stand = found.get("info").map(stand_in);
        Ok(())
    })?;
    stand.ok_or_else(|| Error::internal("a task has no state").into())
}

fn stand_in(info: roxmltree::Node<'_, '_>) -> Stand {
    match soap::text(info, "state") {
        Some("success") => {
            Stand::Done(soap::child(info, "result").map(soap::moref).filter(|made| !made.kind.is_empty()))
        }
        Some("error") => {
            Stand::Failed(Box::new(soap::child(info, "error").map(soap::localized_fault).unwrap_or_default()))
        }
        _ => Stand::Goes { percent: soap::number::<u8>(info, "progress").map(|percent| percent.min(100)) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Stand {
        let text = format!(r#"<i xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">{text}</i>"#);
        stand_in(roxmltree::Document::parse(&text).unwrap().root_element())
    }

    #[test]
    fn a_task_goes_on_until_it_says_that_it_is_done_or_failed() {
        assert!(matches!(read("<state>queued</state>"), Stand::Goes { percent: None }));
        assert!(matches!(
            read("<state>running</state><progress>40</progress>"),
            Stand::Goes { percent: Some(40) }
        ));
        let made = read(
            r#"<state>success</state><result xsi:type="ManagedObjectReference" type="VirtualMachineSnapshot">snapshot-7</result>"#,
        );
        let Stand::Done(Some(made)) = made else { panic!("nothing was made") };
        assert_eq!(made.value, "snapshot-7");
        let failed = read(
            r#"<state>error</state><error><fault xsi:type="TaskInProgress"/><localizedMessage>busy</localizedMessage></error>"#,
        );
        let Stand::Failed(fault) = failed else { panic!("it did not fail") };
        assert_eq!((fault.kind.as_str(), fault.words.as_str()), ("TaskInProgress", "busy"));
    }
}
