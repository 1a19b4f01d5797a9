//! What a manifest may say of a VM elsewhere, and the plan that follows from what it turns out to be.

use std::path::{Path, PathBuf};

use super::*;
use crate::model::facts::{Controller, FoundNic};
use crate::model::machine::Firmware;
use crate::model::manifest::SnapshotQuiesce;
use crate::model::plan::SourceFormat;
use crate::model::planner::{BatchName, Nowhere};
use crate::model::remote::{FoundVm, NOT_OPENED_RULE, PlannedShutdown, PlannedSnapshot};

const HEAD: &str =
    "manifest_version: \"1.0\"\nsource:\n  vsphere:\n    host: vc.example.com\n    credential: prod\n";

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

fn read(text: &str) -> Result<Submission> {
    Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/in"), &settings(), &mut Nowhere)
}

fn plan(text: &str) -> Plan {
    read(text).unwrap().plans("web", "", &settings()).unwrap().remove(0)
}

fn disk(name: &str, gib: u64) -> FoundDisk {
    FoundDisk {
        id: name.to_owned(),
        path: PathBuf::from(format!("[ds1] web/{name}.vmdk")),
        member: None,
        packing: None,
        format: SourceFormat::Vmdk,
        capacity_bytes: Some(gib << 30),
        checksum: None,
        piece_checksums: Vec::new(),
        is_chain: false,
        allowed_paths: Vec::new(),
        controller: Controller::Scsi,
        bus: 0,
        unit: 0,
    }
}

fn description() -> Description {
    let nic = FoundNic {
        mac: Some("00:50:56:aa:bb:01".to_owned()),
        network: Some("VM Network".to_owned()),
        ..FoundNic::default()
    };
    let facts = Facts {
        name: "Web 01".to_owned(),
        vcpus: Some(4),
        memory_bytes: Some(2 << 30),
        firmware: Some(Firmware::Uefi),
        disks: vec![disk("web", 8), disk("web_1", 20)],
        nics: vec![nic],
        warnings: vec!["it has a floppy drive".to_owned()],
        ..Facts::default()
    };
    Description {
        vm: FoundVm { host: "vc.example.com".to_owned(), moref: "vm-42".to_owned(), ..FoundVm::default() },
        facts,
        ways: Vec::new(),
    }
}

fn described(text: &str) -> Result<Plan> {
    describe(&plan(text), &description(), &settings())
}

#[test]
fn at_acceptance_a_plan_says_who_is_asked_and_has_no_disks() {
    let plan = plan(&format!("{HEAD}    vm_name: Web 01\n    datacenter: DC1\n    connections: 2\n"));
    assert_eq!((plan.vm_id.as_str(), plan.name.as_str()), ("Web-01", "Web 01"));
    assert!(plan.disks.is_empty() && plan.needs_network && plan.is_to_be_described());
    let remote = plan.remote.unwrap();
    assert_eq!(remote.login, PlannedLogin::Credential("/etc/hyper2kvm/credentials.d/prod.yaml".into()));
    assert_eq!((remote.vm, remote.port, remote.connections), (WantedVm::Name("Web 01".to_owned()), 443, 2));
    assert_eq!(remote.datacenter.as_deref(), Some("DC1"));
}

#[test]
fn what_the_vm_turns_out_to_be_lies_below_what_the_manifest_says() {
    let text = format!("{HEAD}    vm_uuid: 6ba7b810-9dad-11d1-80b4-00c04fd430c8\nvm: {{cpu: 2}}\n");
    let before = plan(&text);
    let after = described(&text).unwrap();
    let machine = after.machine.as_ref().unwrap();
    assert_eq!((machine.vcpus, machine.memory_mib, machine.firmware), (2, 2048, Some(Firmware::Uefi)));
    assert_eq!(machine.nics[0].mac.as_deref(), Some("00:50:56:aa:bb:01"));
    let disks: Vec<_> =
        after.disks.iter().map(|disk| (disk.id.as_str(), disk.source.to_str().unwrap())).collect();
    assert_eq!(disks, [("disk-0", "[ds1] web/web.vmdk"), ("disk-1", "[ds1] web/web_1.vmdk")]);
    assert_eq!(after.disks[1].bytes, Some(20 << 30));
    assert!(after.warnings.contains(&"it has a floppy drive".to_owned()));
    // What it is called in its batch, where it goes and what it is the same as were told when it was accepted.
    assert_eq!((before.vm_id.as_str(), after.vm_id.as_str()), ("web", "web"));
    assert_eq!(before.output.directory, after.output.directory);
    assert_eq!(before.content_sha256, after.content_sha256);
    assert_eq!(after.remote.as_ref().unwrap().found, Some(description().vm));
    assert!(!after.is_to_be_described() && after.has_the_disks_of(&description().facts));
}

#[test]
fn a_guest_is_looked_into_before_its_copy_only_where_that_is_said_and_of_a_stream_it_is_told_that_it_cannot_be()
 {
    let planned = |further: &str| {
        let plan = described(&format!("{HEAD}    vm_name: web\n{further}")).unwrap();
        let notes: Vec<String> = plan.notes.iter().map(|note| note.rule.clone()).collect();
        (plan.preflight, plan.remote.unwrap().looks_first, notes)
    };
    let stream = "    transport: nfc\n";
    let told = vec![NOT_OPENED_RULE.to_owned()];
    assert_eq!(planned(""), (Preflight::Full, false, vec![]));
    assert_eq!(planned("preflight: metadata\n"), (Preflight::Metadata, false, vec![]));
    assert_eq!(planned("preflight: {rules: {}}\n"), (Preflight::Full, false, vec![]));
    assert_eq!(planned("preflight: full\n"), (Preflight::Full, true, vec![]));
    assert_eq!(planned("preflight: {level: full}\n"), (Preflight::Full, true, vec![]));
    assert_eq!(planned(stream), (Preflight::Full, false, vec![]));
    assert_eq!(planned(&format!("{stream}preflight: full\n")), (Preflight::Full, true, told));
    // Where no guest is opened at all, nobody misses it.
    assert_eq!(
        planned(&format!("{stream}preflight: full\nprofile: none\n")),
        (Preflight::Full, true, vec![])
    );
}

#[test]
fn a_plan_is_made_again_from_the_same_draft_however_often() {
    let once = described(&format!("{HEAD}    vm_name: web\n")).unwrap();
    assert_eq!(describe(&once, &description(), &settings()).unwrap(), once);
    let mut other = description();
    other.facts.disks[1].path = "[ds1] web/web_1-000001.vmdk".into();
    assert!(!once.has_the_disks_of(&other.facts));
    let again = describe(&once, &other, &settings()).unwrap();
    assert_eq!(again.disks[1].source, Path::new("[ds1] web/web_1-000001.vmdk"));
}

#[test]
fn settings_that_changed_meanwhile_do_not_move_its_results() {
    let before = plan(&format!("{HEAD}    vm_name: web\n"));
    let moved = Settings { output_dir: "/elsewhere".into(), ..settings() };
    assert_eq!(describe(&before, &description(), &moved).unwrap().output.directory, before.output.directory);
}

#[test]
fn a_mapping_for_nothing_is_told_when_it_is_known_what_there_is() {
    let mapping = "network_mapping:\n  source_networks: {Prod Network: br-prod}\n";
    let error = described(&format!("{HEAD}    vm_name: web\n{mapping}")).unwrap_err();
    assert_eq!(error.kind(), Kind::Manifest);
    assert_eq!(error.details().place.field.as_deref(), Some("network_mapping.source_networks.Prod Network"));
    let mapping = "storage_mapping:\n  disk_mappings: {disk-1: /data}\n";
    let plan = described(&format!("{HEAD}    vm_name: web\n{mapping}")).unwrap();
    assert_eq!(plan.disks[1].elsewhere(), Some(Path::new("/data")));
    let mapping = "storage_mapping:\n  disk_mappings: {disk-7: /data}\n";
    assert!(described(&format!("{HEAD}    vm_name: web\n{mapping}")).is_err());
}

#[test]
fn what_a_batch_maps_for_all_need_not_be_for_a_vm_of_which_nothing_is_known() {
    let text = "batch_version: \"1.0\"\nshared_config:\n  network_mapping:\n    source_networks: {Prod: br-prod}\nvms:\n  - manifest:\n      \
                source: {vsphere: {credential: prod, vm_name: web}}\n";
    let submission = read(text).unwrap();
    let plans = submission.plans("x", "", &settings()).unwrap();
    assert!(matches!(submission.name, BatchName::Stem(_)));
    // It has no card in that network, which is no mistake of its own.
    assert!(describe(&plans[0], &description(), &settings()).is_ok());
}

#[test]
fn a_vm_without_disks_is_refused_as_one() {
    let mut empty = description();
    empty.facts.disks.clear();
    let error = describe(&plan(&format!("{HEAD}    vm_name: web\n")), &empty, &settings()).unwrap_err();
    assert_eq!((error.kind(), error.details().rule.as_deref()), (Kind::Source, Some("source.no_disks")));
}

#[test]
fn the_draft_is_neither_shown_nor_given_to_workers() {
    let plan = described(&format!("{HEAD}    vm_name: web\n")).unwrap();
    assert!(plan.remote.as_ref().unwrap().draft.is_some());
    assert!(!serde_json::to_string(&plan.clone().without_secrets()).unwrap().contains("draft"));
    assert!(plan.without_draft().remote.unwrap().draft.is_none());
}

#[test]
fn a_copy_of_a_vm_that_runs_has_snapshots_as_said_and_no_link() {
    let read = |said: &str| plan(&format!("{HEAD}    vm_name: web\n{said}")).remote.unwrap();
    let remote = read("    mode: clone\n");
    let PlannedSnapshot { quiesce, min_free, abort_free, max_age_s } = remote.snapshot.unwrap();
    assert_eq!((quiesce, min_free, abort_free, max_age_s), (SnapshotQuiesce::Try, 20, 10, 43_200.0));
    assert!(remote.isolated && remote.mode == VsphereMode::Clone);
    assert_eq!(remote.transport, VsphereTransport::Auto);
    for (said, transport) in [("nfc", VsphereTransport::Nfc), ("vddk", VsphereTransport::Vddk)] {
        assert_eq!(read(&format!("    mode: clone\n    transport: {said}\n")).transport, transport);
    }
    let said =
        "    mode: clone\n    snapshot: {quiesce: yes, min_free: 30%, abort_free: 5%, max_age_s: 60}\n";
    let PlannedSnapshot { quiesce, min_free, abort_free, max_age_s } = read(said).snapshot.unwrap();
    assert_eq!((quiesce, min_free, abort_free, max_age_s), (SnapshotQuiesce::Yes, 30, 5, 60.0));
    assert!(!read("    mode: clone\nallow_live_clone: true\n").isolated);
    let cold = read("");
    assert!(cold.snapshot.is_none() && !cold.isolated);
}

#[test]
fn what_makes_no_sense_of_a_snapshot_is_refused_where_it_stands() {
    for (said, field, kind) in [
        ("snapshot: {quiesce: try}", "source.vsphere.snapshot", Kind::Manifest),
        (
            "mode: clone\n    snapshot: {abort_free: 30%}",
            "source.vsphere.snapshot.abort_free",
            Kind::Manifest,
        ),
        ("mode: clone\n    transport: ssh", "source.vsphere.transport", Kind::Unsupported),
    ] {
        let error = read(&format!("{HEAD}    vm_name: web\n    {said}\n")).unwrap_err();
        assert_eq!((error.kind(), error.details().place.field.as_deref()), (kind, Some(field)), "{said}");
    }
}

#[test]
fn what_this_version_lacks_is_refused_by_its_name() {
    for said in [
        "transport: nfc\n    mode: warm",
        "transport: ssh\n    mode: clone",
        "transport: ssh\n    mode: warm",
    ] {
        let error = read(&format!("{HEAD}    vm_name: web\n    {said}\n")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported, "{said}");
        let details = error.details();
        assert_eq!(details.place.field.as_deref(), Some("source.vsphere.transport"));
        assert!(details.advice.is_some() && details.place.line == Some(7), "{said}: {details:?}");
    }
    for said in [
        "mode: cold",
        "mode: warm",
        "power: require_off",
        "transport: auto",
        "transport: nfc",
        "transport: vddk",
        "transport: ssh",
        "force_off: false",
        "after: {annotate: false}",
        "after: {rename_suffix: -old}",
    ] {
        read(&format!("{HEAD}    vm_name: web\n    {said}\n")).unwrap();
    }
}

fn with_power(said: &str, allow_shutdown: bool) -> Result<Plan> {
    let mut settings = settings();
    settings.sources.allow_shutdown = allow_shutdown;
    let text = format!("{HEAD}    vm_name: web\n{said}");
    let submission =
        Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/in"), &settings, &mut Nowhere)?;
    Ok(submission.plans("web", "", &settings)?.remove(0))
}

#[test]
fn a_source_is_shut_down_where_manifest_and_host_say_so_and_its_plan_tells() {
    let off = "    power: shutdown\n    shutdown_timeout_s: 90\n    force_off: true\n";
    let error = with_power(off, false).unwrap_err();
    assert_eq!(error.details().place.field.as_deref(), Some("source.vsphere.power"));
    let told = with_power(off, true).unwrap();
    let remote = told.remote.as_ref().unwrap();
    assert_eq!(remote.shutdown, Some(PlannedShutdown { timeout_s: 90.0, force_off: true }));
    assert!(remote.need().shuts_down);
    let words = power::in_words(&told).join("\n");
    assert!(words.contains("SHUT DOWN") && words.contains("CUT if it has not within 90 s"), "{words}");
    assert!(!words.contains("looked into"), "{words}");
    let looked = |further: &str| {
        let told = with_power(&format!("{off}preflight: full\n{further}"), true).unwrap();
        power::in_words(&told).join("\n").contains("its guest is looked into before that")
    };
    assert!(looked("") && !looked("profile: none\n"));
    let after = "    after: {annotate: true, rename_suffix: -old}\n";
    let told = with_power(after, false).unwrap();
    assert!(!told.remote.as_ref().unwrap().need().shuts_down);
    let words = power::in_words(&told).join("\n");
    assert!(words.contains("is noted to have moved, is renamed (`-old` behind its name)"), "{words}");
    assert!(power::in_words(&with_power("", true).unwrap()).is_empty());
}

#[test]
fn what_makes_no_sense_of_a_shutdown_is_refused() {
    for (said, field) in [
        ("shutdown_timeout_s: 60", "shutdown_timeout_s"),
        ("force_off: true", "force_off"),
        ("mode: clone\n    power: shutdown", "power"),
        ("mode: clone\n    after: {annotate: true}", "after"),
        ("power: shutdown\n    shutdown_timeout_s: 0.5", "shutdown_timeout_s"),
        ("power: shutdown\n    shutdown_timeout_s: 2d", "shutdown_timeout_s"),
        ("after: {rename_suffix: 0123456789012345678901234567890123456789x}", "after.rename_suffix"),
    ] {
        let error = with_power(&format!("    {said}\n"), true).unwrap_err();
        assert_eq!(error.kind(), Kind::Manifest, "{said}");
        let details = error.details();
        assert_eq!(details.place.field.as_deref(), Some(format!("source.vsphere.{field}").as_str()));
        assert!(details.advice.is_some() && details.place.line.is_some(), "{said}: {details:?}");
    }
}

#[test]
fn a_warm_migration_says_when_its_last_pass_is_made() {
    use crate::model::warm::{Cutover, INTERVAL_S, MAX_DELTA_BYTES, PlannedWarm};
    let with = |warm: &str| {
        let text = format!("{HEAD}    vm_name: web\n    mode: warm\n    warm: {{{warm}}}\n");
        let mut plans = read(&text)?.plans("web", "", &settings())?;
        Ok::<_, Error>(plans.remove(0).remote.unwrap().warm.unwrap())
    };
    let by = |cutover, interval_s| PlannedWarm { cutover, interval_s };
    assert_eq!(with("").unwrap(), by(Cutover::Manual, INTERVAL_S));
    assert_eq!(with("interval_s: 5m").unwrap(), by(Cutover::Manual, 300.0));
    let auto = |max_delta_bytes| by(Cutover::Auto { max_delta_bytes }, INTERVAL_S);
    assert_eq!(with("cutover: auto").unwrap(), auto(MAX_DELTA_BYTES));
    assert_eq!(with("cutover: auto, max_delta_mb: 3").unwrap(), auto(3 << 20));
    let at = with("cutover: at, at: \"1970-01-01T02:00:01.5+02:00\"").unwrap();
    assert_eq!(at, by(Cutover::At { at: 1.5 }, INTERVAL_S));
    for (said, field) in [
        ("cutover: at", "warm.cutover"),
        ("at: \"2026-11-28T22:00:00Z\"", "warm.at"),
        ("cutover: at, at: \"Saturday night\"", "warm.at"),
        ("cutover: at, at: \"2026-11-28T22:00:00\"", "warm.at"),
        ("cutover: at, at: \"2026-11-28T22:00:00Z\", max_delta_mb: 3", "warm.max_delta_mb"),
        ("max_delta_mb: 3", "warm.max_delta_mb"),
    ] {
        let error = with(said).unwrap_err();
        assert_eq!(error.kind(), Kind::Manifest, "{said}");
        let details = error.details();
        assert_eq!(
            details.place.field.as_deref(),
            Some(format!("source.vsphere.{field}").as_str()),
            "{said}"
        );
        assert!(details.advice.is_some() && details.place.line.is_some(), "{said}: {details:?}");
    }
    let alone = read(&format!("{HEAD}    vm_name: web\n    warm: {{cutover: auto}}\n")).unwrap_err();
    assert_eq!(alone.kind(), Kind::Manifest);
    let exported =
        read(&format!("{HEAD}    vm_name: web\n    mode: warm\n    transport: nfc\n")).unwrap_err();
    assert_eq!(exported.details().place.field.as_deref(), Some("source.vsphere.transport"));
    let described = described(&format!("{HEAD}    vm_name: web\n    mode: warm\n")).unwrap();
    assert_eq!(described.warm(), Some(&by(Cutover::Manual, INTERVAL_S)));
}

#[test]
fn a_login_is_a_credential_or_an_account_with_one_password_elsewhere() {
    const HOST: &str =
        "manifest_version: \"1.0\"\nsource:\n  vsphere:\n    host: vc.example.com\n    vm_name: web\n";
    for (login, field, kind) in [
        ("", "credential", Kind::Manifest),
        ("    username: root\n", "credential", Kind::Manifest),
        ("    password_env: PASS\n", "password_env", Kind::Manifest),
        ("    username: root\n    password_file: /etc/x\n", "password_file", Kind::Manifest),
        ("    credential: vc\n    username: root\n", "username", Kind::Manifest),
    ] {
        let error = read(&format!("{HOST}{login}")).unwrap_err();
        assert_eq!(error.kind(), kind, "{login}");
        assert_eq!(error.details().place.field.as_deref(), Some(format!("source.vsphere.{field}").as_str()));
    }
    let mut allowing = settings();
    allowing.credentials.allowed_dirs = vec!["/etc/secrets".into()];
    allowing.credentials.allowed_env = vec!["VC_PASSWORD".to_owned()];
    let with = |login: &str| {
        let text = format!("{HOST}    username: root\n{login}");
        let submission = Submission::read(text.as_bytes(), "web.yaml", Path::new("/in"), &allowing)?;
        Ok::<_, Error>(submission.plans("web", "", &allowing)?.remove(0).remote.unwrap().login)
    };
    assert_eq!(
        with("    password_file: /etc/secrets/vc\n").unwrap(),
        PlannedLogin::PasswordFile { username: "root".to_owned(), file: "/etc/secrets/vc".into() }
    );
    assert_eq!(
        with("    password_env: VC_PASSWORD\n").unwrap(),
        PlannedLogin::PasswordEnv { username: "root".to_owned(), variable: "VC_PASSWORD".to_owned() }
    );
    assert!(with("    password_env: HOME\n").is_err());
    assert!(with("    password_file: /etc/shadow\n").is_err());
    assert!(with("    password_file: /etc/secrets/../shadow\n").is_err());
}

#[test]
fn a_password_that_a_manifest_holds_is_in_no_plan_but_a_file_for_it_is() {
    const TEXT: &str = "manifest_version: \"1.0\"\nsource:\n  vsphere:\n    host: vc.example.com\n    vm_name: web\n    username: root\n";
    let mut allowing = settings();
    allowing.credentials.allow_inline = true;
    let read = |line: &str| {
        Submission::read(format!("{TEXT}{line}").as_bytes(), "web.yaml", Path::new("/in"), &allowing)
    };
    let submission = read("    password: hunter2\n").unwrap();
    assert_eq!(submission.vms[0].password.as_ref().unwrap().reveal(), "hunter2");
    let login = |submission: &Submission, batch: &str| {
        let plan = submission.plans(batch, "", &allowing).unwrap().remove(0);
        assert!(!serde_json::to_string(&plan).unwrap().contains("hunter2"));
        plan.remote.unwrap().login
    };
    let first = login(&submission, "web");
    let PlannedLogin::KeptPassword { username, file } = &first else { panic!("{first:?}") };
    assert_eq!(
        (username.as_str(), file.parent().unwrap()),
        ("root", &*allowing.layout().passwords().join("web"))
    );
    // What was stored knows it as well, and not the password.
    let stored = serde_json::to_string(&submission).unwrap();
    assert!(!stored.contains("hunter2") && !format!("{submission:?}").contains("hunter2"));
    let stored: Submission = serde_json::from_str(&stored).unwrap();
    assert_eq!((login(&stored, "web"), &stored.vms[0].password), (first.clone(), &None));
    assert_ne!(login(&submission, "web-2"), first);
    let other_port = read("    port: 8443\n    password: hunter2\n").unwrap();
    assert_ne!(login(&other_port, "web"), first);
    // Another password makes no other VM of it, and what can be seen of it cannot be used to guess at it.
    let mended = read("    password: hunter3\n").unwrap();
    assert_eq!(mended.vms[0].content_sha256, submission.vms[0].content_sha256);
    for line in ["    password: \"\"\n", "    password: \"[redacted]\"\n", "    password: \"a\\nb\"\n"] {
        let error = read(line).unwrap_err();
        assert_eq!(
            error.details().place.field.as_deref(),
            Some("source.vsphere.password"),
            "{line}: {error}"
        );
    }
}

#[test]
fn a_thumbprint_is_one_of_sha_256() {
    let digits = "AB:".repeat(31) + "CD";
    let with = plan(&format!("{HEAD}    vm_name: web\n    thumbprint: \"{digits}\"\n"));
    assert_eq!(with.remote.unwrap().thumbprint, Thumbprint::parse(&digits).ok());
    assert!(read(&format!("{HEAD}    vm_name: web\n    thumbprint: \"AB:CD\"\n")).is_err());
}

#[test]
fn with_disks_of_its_own_a_manifest_only_tells_where_they_came_from() {
    let disks = "disks:\n  - {id: boot, source_format: raw, local_path: /srv/boot.img}\n";
    let plan = plan(&format!("{HEAD}    vm_name: web\n    mode: warm\n{disks}"));
    assert!(plan.remote.is_none() && !plan.needs_network);
}
