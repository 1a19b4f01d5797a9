//! Mappings of networks and storage: which entry holds, and what comes of it in the plan.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Result};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::limits::FlowLimit;
use hyper2kvm::model::machine::{MachineNic, NicLink};
use hyper2kvm::model::manifest::{DiskCache, NicModel};
use hyper2kvm::model::plan::{OutputFormat, Plan, Preallocation};
use hyper2kvm::model::planner::Submission;

const HEAD: &str = r#"manifest_version: "1.0"
disks:
  - {id: logs, source_format: raw, local_path: logs.raw}
  - {id: root, source_format: vmdk, local_path: root.vmdk, boot_order_hint: 0}
  - {id: data.old, source_format: raw, local_path: old.raw, disk_type: data}
nics:
  - {mac: "00:50:56:AA:BB:01", network: VM Network}
  - {mac: "00-50-56-aa-bb-02", network: VM Network 2, model: e1000e, vlan: 7}
  - {network: Other}
"#;

fn read_as(text: &str, filename: &str) -> Result<Submission> {
    let settings = Settings::defaults(Path::new("/state"), 2);
    Submission::read(text.as_bytes(), filename, Path::new("/drops"), &settings)
}

fn planned(text: &str, batch: &str, suffix: &str) -> Plan {
    let submission = read_as(&format!("{HEAD}{text}"), "web.yaml").unwrap_or_else(|error| panic!("{error}"));
    submission.plans(batch, suffix, &Settings::defaults(Path::new("/state"), 2)).unwrap().remove(0)
}

fn plan(text: &str) -> Plan {
    planned(text, "web", "")
}

fn refused(text: &str) -> Error {
    read_as(&format!("{HEAD}{text}"), "web.yaml").expect_err("it is accepted")
}

fn cards(plan: &Plan) -> &[MachineNic] {
    &plan.machine.as_ref().unwrap().nics
}

fn links(text: &str) -> Vec<NicLink> {
    cards(&plan(text)).iter().map(|card| card.link.clone()).collect()
}

fn bridge(name: &str) -> NicLink {
    NicLink::Bridge(name.to_owned())
}

fn network(name: &str) -> NicLink {
    NicLink::Network(name.to_owned())
}

#[test]
fn a_name_holds_before_a_pattern_and_of_patterns_the_one_that_says_most() {
    let text = "network_mapping:\n  source_networks: {\"*\": br-rest, \"VM*\": br-vm, VM Network: br0}\n";
    assert_eq!(links(text), [bridge("br0"), bridge("br-vm"), bridge("br-rest")]);
    let text = "network_mapping: {source_networks: {VM Network: br0}, default_bridge: br9}\n";
    assert_eq!(links(text), [bridge("br0"), bridge("br9"), bridge("br9")]);
    assert_eq!(
        links("network_mapping: {default_bridge: br9}\n"),
        [bridge("br9"), bridge("br9"), bridge("br9")]
    );
}

#[test]
fn a_card_that_no_entry_is_for_is_told_of() {
    let plan = plan("network_mapping: {source_networks: {\"VM*\": {network: lan}}}\n");
    assert_eq!(cards(&plan)[2].link, network("default"));
    let told: Vec<&String> = plan.warnings.iter().filter(|warning| warning.contains("`Other`")).collect();
    assert_eq!(told.len(), 1, "{:?}", plan.warnings);
}

#[test]
fn a_cards_own_words_are_stronger_than_its_networks() {
    let text = HEAD.replace(
        "network: VM Network}",
        "network: VM Network, bridge: br-own, bandwidth: {outbound: 1MiB/s}}",
    );
    let text = format!(
        "{text}network_mapping:\n  source_networks:\n    \"VM*\":\n      ovs_bridge: ovs0\n      model: rtl8139\n      bandwidth: {{inbound: 3MiB/s}}\n"
    );
    let submission = read_as(&text, "web.yaml").unwrap();
    let plan = submission.plans("web", "", &Settings::defaults(Path::new("/state"), 2)).unwrap().remove(0);
    let [first, second, _] = cards(&plan) else { panic!("three cards") };
    let flow = |average: u64| FlowLimit { average, peak: None, burst: None };
    assert_eq!((first.link.clone(), first.vlan), (bridge("br-own"), None));
    assert_eq!((first.limits.inbound, first.limits.outbound), (None, Some(flow(1 << 20))));
    assert_eq!((first.model, second.model), (NicModel::Rtl8139, NicModel::E1000e));
    assert_eq!((second.link.clone(), second.vlan), (NicLink::OpenVswitch("ovs0".to_owned()), Some(7)));
    assert_eq!(second.limits.inbound, Some(flow(3 << 20)));
}

#[test]
fn a_tag_that_nothing_sets_is_told_of() {
    let tagged = |text: &str| {
        let plan = plan(text);
        plan.warnings.iter().any(|warning| warning.starts_with("nics[1].vlan: 7 is not set"))
    };
    assert!(tagged("network_mapping: {default_bridge: br0}\n"));
    assert!(!tagged("network_mapping: {source_networks: {\"*\": {ovs_bridge: ovs0, vlan: 12}}}\n"));
}

#[test]
fn an_optional_entry_may_be_for_nothing() {
    plan("network_mapping: {source_networks: {Nowhere: {bridge: br0, optional: true}}}\n");
    plan("storage_mapping: {disk_mappings: {\"swap*\": {directory: /srv, optional: true}}}\n");
    let error = refused("network_mapping: {source_networks: {Nowhere: {bridge: br0, optional: false}}}\n");
    assert!(error.to_string().contains("Nowhere"), "{error}");
    for there in ["VM Network", "VM Network 2", "Other"] {
        assert!(error.to_string().contains(there), "{error}");
    }
}

#[test]
fn addresses_stay_unless_something_else_is_said() {
    let plan = plan("network_mapping: {default_bridge: br0}\n");
    let macs: Vec<_> = cards(&plan).iter().map(|card| card.mac.as_deref()).collect();
    assert_eq!(macs, [Some("00:50:56:aa:bb:01"), Some("00:50:56:aa:bb:02"), None]);
    assert!(plan.guest.nics.iter().all(|nic| nic.was.is_none()));
}

#[test]
fn new_addresses_are_the_same_in_every_plan_of_the_same_card_and_no_other_has_them() {
    let text = "network_mapping: {mac_address_policy: regenerate}\n";
    let macs =
        |plan: &Plan| -> Vec<String> { cards(plan).iter().map(|card| card.mac.clone().unwrap()).collect() };
    let first = plan(text);
    assert_eq!(macs(&first), macs(&plan(text)), "planned again");
    assert_eq!(macs(&first), macs(&planned(text, "web", "-2")), "run again beside");
    let mut all = macs(&first);
    all.extend(macs(&planned(text, "other", "")));
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 6, "{all:?}");
    // The guest is told of the same, with what its card was called by before.
    let guest: Vec<_> =
        first.guest.nics.iter().map(|nic| (nic.mac.clone().unwrap(), nic.was.as_deref())).collect();
    let was = [Some("00:50:56:aa:bb:01"), Some("00:50:56:aa:bb:02"), None];
    assert_eq!(guest, macs(&first).into_iter().zip(was).collect::<Vec<_>>());
}

#[test]
fn overrides_are_found_however_an_address_is_written_and_others_stay() {
    let plan = plan(
        "network_mapping:\n  mac_address_policy: custom\n  mac_address_overrides: {\"00-50-56-AA-BB-02\": \"52-54-00-00-00-0A\", \"00:50:56:ff:ff:ff\": \"52:54:00:00:00:0b\"}\n",
    );
    let macs: Vec<_> = cards(&plan).iter().map(|card| card.mac.as_deref()).collect();
    assert_eq!(macs, [Some("00:50:56:aa:bb:01"), Some("52:54:00:00:00:0a"), None]);
    assert_eq!(plan.guest.nics[1].was.as_deref(), Some("00:50:56:aa:bb:02"));
    assert!(plan.warnings.iter().any(|warning| warning.contains("00:50:56:ff:ff:ff")), "{:?}", plan.warnings);
}

#[test]
fn two_cards_may_change_their_addresses_with_each_other() {
    let plan = plan(
        "network_mapping:\n  mac_address_policy: custom\n  mac_address_overrides: {\"00:50:56:aa:bb:01\": \"00:50:56:aa:bb:02\", \"00:50:56:aa:bb:02\": \"00:50:56:aa:bb:01\"}\n",
    );
    assert_eq!(cards(&plan)[0].mac.as_deref(), Some("00:50:56:aa:bb:02"));
}

fn results(plan: &Plan) -> Vec<PathBuf> {
    plan.disks.iter().map(|disk| plan.result_path(disk)).collect()
}

#[test]
fn a_disk_is_placed_by_its_id_its_role_or_a_pattern_and_each_thing_by_the_first_that_says_it() {
    let plan = plan(
        "storage_mapping:\n  cache: none\n  preallocate: true\n  disk_mappings:\n    \"*\": {directory: rest, cache: writeback}\n    data: {directory: /srv/data, format_override: raw}\n    logs: {cache: directsync}\n    boot: /srv/fast/../boot\n",
    );
    // The one that boots comes first.
    let expected = ["/srv/boot/web-root.qcow2", "/srv/data/web-logs.raw", "/srv/data/web-data.old.raw"];
    assert_eq!(results(&plan), expected.map(PathBuf::from));
    let machine = plan.machine.as_ref().unwrap();
    let caches: Vec<_> = machine.disks.iter().map(|disk| disk.cache).collect();
    assert_eq!(caches, [Some(DiskCache::Writeback), Some(DiskCache::Directsync), Some(DiskCache::Writeback)]);
    assert!(machine.disks.iter().zip(expected).all(|(disk, path)| disk.path == Path::new(path)));
    assert!(plan.disks.iter().all(|disk| plan.preallocation_of(disk) == Preallocation::Falloc));
}

#[test]
fn a_key_that_is_a_disks_id_means_that_disk_alone() {
    let text = HEAD.replace("id: logs", "id: boot");
    let text = format!("{text}storage_mapping: {{disk_mappings: {{boot: /srv/fast}}}}\n");
    let submission = read_as(&text, "web.yaml").unwrap();
    let plan = submission.plans("web", "", &Settings::defaults(Path::new("/state"), 2)).unwrap().remove(0);
    let expected = [
        "/state/output/web/web/root.qcow2",
        "/srv/fast/web-boot.qcow2",
        "/state/output/web/web/data.old.qcow2",
    ];
    assert_eq!(results(&plan), expected.map(PathBuf::from));
}

#[test]
fn relative_directories_count_from_the_manifest_and_a_rerun_lies_beside() {
    let text = "storage_mapping: {disk_mappings: {boot: fast}}\n";
    assert_eq!(results(&plan(text))[0], Path::new("/drops/fast/web-root.qcow2"));
    assert_eq!(results(&planned(text, "web", "-2"))[0], Path::new("/drops/fast/web-2-root.qcow2"));
    let text = format!("{text}output: {{on_exists: replace}}\n");
    assert_eq!(results(&planned(&text, "web", "-2"))[0], Path::new("/drops/fast/web-root.qcow2"));
    let own = "output: {directory: /srv/web}\nstorage_mapping: {disk_mappings: {boot: /srv/web}}\n";
    assert_eq!(
        results(&plan(own))[0],
        Path::new("/srv/web/root.qcow2"),
        "in its own directory it is called as ever"
    );
}

#[test]
fn a_mapping_says_format_and_layout_before_the_output_does() {
    let plan = plan(
        "output: {format: vdi}\nstorage_mapping:\n  format_override: qcow2\n  preallocate: true\n  disk_mappings: {logs: {format_override: raw, preallocate: false}}\n",
    );
    let looks: Vec<_> =
        plan.disks.iter().map(|disk| (plan.format_of(disk), plan.preallocation_of(disk))).collect();
    let thick = (OutputFormat::Qcow2, Preallocation::Falloc);
    assert_eq!(looks, [thick, (OutputFormat::Raw, Preallocation::Off), thick]);
    assert_eq!(plan.copying_stage(), Stage::Extraction);
}

#[test]
fn one_result_that_is_written_as_a_stream_makes_all_be_copied_at_the_end() {
    let plan = plan("storage_mapping: {disk_mappings: {logs: {format_override: vmdk}}}\n");
    assert_eq!(plan.copying_stage(), Stage::Convert);
}

#[test]
fn directories_outside_what_the_configuration_allows_are_refused() {
    let mut settings = Settings::defaults(Path::new("/state"), 2);
    settings.paths.write = vec![PathBuf::from("/srv/images")];
    let read = |directory: &str| {
        let text = format!("{HEAD}storage_mapping:\n  disk_mappings:\n    logs: {directory}\n");
        Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings)
    };
    assert!(read("/srv/images/slow").is_ok());
    for outside in ["/srv/images/../other", "slow", "{directory: /etc}"] {
        let error = read(outside).unwrap_err();
        let place = &error.details().place;
        assert_eq!(error.kind().name(), "output", "{error}");
        assert_eq!(place.field.as_deref(), Some("storage_mapping.disk_mappings.logs"));
        assert_eq!(place.line, Some(12));
    }
}

#[test]
fn no_two_machines_that_come_together_have_one_result_or_one_new_address() {
    let one = |name: &str, disk: &str, further: &str| {
        let text = format!(
            "manifest_version: \"1.0\"\nname: {name}\ndisks: [{{id: {disk}, source_format: raw, local_path: {name}.raw}}]\nnics: [{{mac: \"00:50:56:00:00:01\"}}]\n{further}"
        );
        read_as(&text, "web.yaml").unwrap()
    };
    let plans = |all: Vec<Submission>| {
        Submission::together(all).unwrap().plans("web", "", &Settings::defaults(Path::new("/state"), 2))
    };
    let mapped = "storage_mapping: {disk_mappings: {\"*\": /srv/all}}\n";
    let error = plans(vec![one("a", "b-c", mapped), one("a-b", "c", mapped)]).unwrap_err();
    assert!(error.to_string().contains("/srv/all/a-b-c.qcow2"), "{error}");
    assert!(plans(vec![one("a", "x", mapped), one("b", "x", mapped)]).is_ok());
    let custom = "network_mapping: {mac_address_policy: custom, mac_address_overrides: {\"00:50:56:00:00:01\": \"52:54:00:00:00:01\"}}\n";
    let error = plans(vec![one("a", "x", custom), one("b", "x", custom)]).unwrap_err();
    assert!(error.to_string().contains("52:54:00:00:00:01"), "{error}");
    let new = "network_mapping: {mac_address_policy: regenerate}\n";
    assert!(plans(vec![one("a", "x", new), one("b", "x", new)]).is_ok());
    assert!(plans(vec![one("a", "x", ""), one("b", "x", "")]).is_ok(), "what they bring along is theirs");
}
