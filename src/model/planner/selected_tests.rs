//! Entries of a batch that stand for VMs of a server: what may be said in them, and the VMs that they come to.

use std::path::Path;

use super::*;
use crate::model::config::Settings;
use crate::model::planner::Nowhere;
use crate::model::remote::WantedVm;

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

/// A batch with one VM of a disk, and this entry.
fn read(entry: &str) -> Result<Submission> {
    let text = format!(
        "batch_version: \"1.0\"\nbatch_metadata: {{batch_id: weekend, continue_on_error: false}}\nvms:\n  - manifest: {{name: one, disks: [{{id: a, source_format: raw, local_path: /a.raw}}]}}\n  - {entry}\n"
    );
    Submission::read_with(text.as_bytes(), "weekend.yaml", Path::new("/in"), &settings(), &mut Nowhere)
}

fn entry(further: &str, vsphere: &str) -> String {
    format!("{{{further}, manifest: {{profile: none, source: {{vsphere: {{credential: prod{vsphere}}}}}}}}}")
}

fn plan(entry: &str) -> Plan {
    read(entry).unwrap().plans("weekend", "", &settings()).unwrap().remove(1)
}

fn machine(name: &str, moref: &str) -> SelectedVm {
    SelectedVm { name: name.to_owned(), moref: moref.to_owned() }
}

#[test]
fn an_entry_is_one_job_that_asks_and_says_whom_it_stands_for() {
    let plan = plan(&entry("select: {folder: prod, names: [\"web-*\"], exclude: [web-9], power: off}", ""));
    assert_eq!(plan.vm_id, "select_1");
    assert!(plan.disks.is_empty() && plan.is_to_be_described() && plan.needs_network);
    let remote = plan.remote.unwrap();
    assert!(matches!(remote.vm, WantedVm::Selected(_)));
    assert!(remote.shown().starts_with("web-* in prod that are off but web-9 on "), "{}", remote.shown());
}

#[test]
fn its_machines_are_vms_with_all_that_the_entry_says_each_asked_for_by_the_servers_name_for_it() {
    let text = entry("select: {names: [\"web-*\"]}, priority: 3, overrides: {vm: {cpu: 2}}", "");
    let selected = [machine("Web 1", "vm-11"), machine("web-2", "vm-12")];
    let members = expand(&plan(&text), &selected).unwrap();
    let ids: Vec<&str> = members.vms.iter().map(|vm| vm.vm_id.as_str()).collect();
    assert_eq!(ids, ["Web-1", "web-2"]);
    let plans = members.plans("weekend", "", &settings()).unwrap();
    for (plan, machine) in plans.iter().zip(&selected) {
        let remote = plan.remote.as_ref().unwrap();
        assert_eq!(remote.vm, WantedVm::Moref(machine.moref.clone()));
        assert_eq!((plan.name.as_str(), plan.priority), (machine.name.as_str(), 3));
        assert_eq!(plan.machine.as_ref().unwrap().vcpus, 2);
        assert!(plan.is_to_be_described() && remote.draft.is_some());
    }
    assert_eq!(plans[0].output.directory, Path::new("/state/output/weekend/Web-1"));
    assert_eq!(expand(&plan(&text), &selected).unwrap(), members, "the same answer is the same VMs");
}

#[test]
fn what_the_same_content_is_follows_from_what_is_said_of_each_and_not_from_how_it_was_selected() {
    let content = |text: &str| {
        let (plan, machine) = (plan(text), [machine("web", "vm-11")]);
        (plan.content_sha256.clone(), expand(&plan, &machine).unwrap().vms[0].content_sha256.clone())
    };
    let one = content(&entry("select: {names: [web]}", ""));
    let otherwise = content(&entry("select: {names: [w*]}", ""));
    assert!(one.0 != otherwise.0 && one.1 == otherwise.1);
    let changed = content(&entry("select: {names: [web]}, overrides: {vm: {cpu: 2}}", ""));
    assert!(one.1 != changed.1);
    let both = [machine("web", "vm-11"), machine("db", "vm-12")];
    let vms = expand(&plan(&entry("select: {names: [web]}", "")), &both).unwrap().vms;
    assert!(vms[0].content_sha256 == one.1 && vms[1].content_sha256 != one.1);
}

#[test]
fn a_machine_that_no_manifest_could_name_fails_alone() {
    let selected = [machine("web", "vm-11"), machine("a\nb", "vm-12")];
    let members = expand(&plan(&entry("select: {power: off}", "")), &selected).unwrap();
    assert_eq!((members.vms.len(), members.refused.len()), (1, 1));
    assert_eq!(members.refused[0].error.details().place.field.as_deref(), Some("vms[1]"));
}

#[test]
fn what_contradicts_itself_in_an_entry_is_refused_at_its_place() {
    for (text, field, said) in [
        (entry("select: {names: [web]}, id: web", ""), "vms[1].id", "several VMs"),
        (entry("select: {folder: a}", ", folder: b"), "vms[1].select.folder", "source.vsphere.folder"),
        (
            entry("select: {names: [web]}", ", vm_name: web"),
            "vms[1].manifest.source.vsphere.vm_name",
            "several",
        ),
        (entry("select: {power: of}", ""), "vms[1].select.power", "off"),
        ("{select: {folder: /d, power: off}}".to_owned(), "vms[1].select.power", "no server"),
        ("{select: {folder: /d, tags: [a]}}".to_owned(), "vms[1].select.tags", "no server"),
        (
            "{select: {names: [web]}, manifest: {name: x, source: {vsphere: {credential: prod}}}}".to_owned(),
            "vms[1].select",
            "leave `name` out",
        ),
    ] {
        let error = read(&text).unwrap_err();
        assert_eq!(error.details().place.field.as_deref(), Some(field), "{error}");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.details().place.line, Some(5), "{error}");
    }
}
