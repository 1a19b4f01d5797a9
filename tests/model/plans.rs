//! From a good manifest to its plan.

use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::Result;
use hyper2kvm::model::facts::Facts;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::{FstabMode, OnNoOs, OnUnsupportedGuest};
use hyper2kvm::model::plan::{Compression, KeySource, OutputFormat, Plan, PlannedGrowth};
use hyper2kvm::model::planner::{BatchName, Nowhere, Origin, Submission, Surroundings, origins};

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

fn read(text: &str) -> Result<Submission> {
    Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings())
}

fn plan(text: &str) -> Plan {
    let submission = read(text).unwrap_or_else(|error| panic!("{error}"));
    let mut plans = submission.plans("web", "", &settings()).unwrap();
    assert_eq!(plans.len(), 1);
    plans.remove(0)
}

const MINIMAL: &str = r#"
manifest_version: "1.0"
disks:
  - id: boot
    source_format: vmdk
    local_path: disks/../web.vmdk
"#;

#[test]
fn a_minimal_manifest_is_a_batch_of_one_named_like_its_file() {
    let submission = read(MINIMAL).unwrap();
    assert_eq!(submission.name, BatchName::Stem("web".to_owned()));
    let plan = plan(MINIMAL);
    assert_eq!(
        (plan.vm_id.as_str(), plan.name.as_str(), plan.profile.as_str()),
        ("web", "web", "production")
    );
    assert_eq!(plan.disks[0].source, PathBuf::from("/drops/web.vmdk"));
    assert_eq!(plan.output.directory, PathBuf::from("/state/output/web/web"));
    assert_eq!(plan.output.format, OutputFormat::Qcow2);
    assert_eq!(plan.output.compress, Compression::None);
    assert!(plan.output.report && plan.output.check_image_integrity);
}

#[test]
fn production_repairs_checks_and_boots() {
    let plan = plan(MINIMAL);
    let all_but_libvirt = Stage::ALL.into_iter().filter(|stage| *stage != Stage::Libvirt);
    assert!(all_but_libvirt.into_iter().all(|stage| plan.runs(stage)), "{:?}", plan.stages);
    assert!(!plan.runs(Stage::Libvirt) && plan.libvirt.is_none());
    assert_eq!(plan.guest.fix.fstab_mode, FstabMode::StabilizeAll);
    assert!(plan.guest.fix.remove_vmware_tools && plan.guest.fix.network && plan.guest.fix.backup);
    assert_eq!((plan.lacking, plan.warnings), (vec![], vec![]));
}

#[test]
fn everything_that_this_version_can_do_reaches_the_plan() {
    let plan = plan(
        r#"
manifest_version: 1.0
name: Web Server 01
priority: -5
profile: none
source: {provider: vsphere, vm_id: vm-42, vm_name: web, vsphere: {host: vc.example.com}}
vm: {cpu: 4, mem_gb: 8, firmware: uefi, secureboot: true, tpm: true, disk_bus: virtio, os_hint: linux}
nics:
  - {id: nic0, mac: 00-50-56-AB-CD-EF, network: VM Network, bridge: br-lan, vlan: 100, model: virtio}
disks:
  - {id: data, source_format: raw, local_path: /srv/data.img, bytes: 1024}
  - id: boot
    source_format: vmdk
    local_path: /srv/boot.vmdk
    boot_order_hint: 0
    backing_chain: true
    allowed_paths: [chain, /srv/base]
    checksum: sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
notes: [first]
warnings: [{stage: export, message: was running}]
metadata: {job_id: "7", tags: {team: blue}}
pipeline:
  convert: {enabled: true, compress: true, compress_level: 3}
  validate: {enabled: true, check_image_integrity: false}
output: {directory: results, on_exists: suffix, mode: 0640, group: kvm}
options: {report: {enabled: false}}
preflight: metadata
"#,
    );
    assert_eq!((plan.vm_id.as_str(), plan.name.as_str()), ("Web-Server-01", "Web Server 01"));
    assert_eq!((plan.priority, plan.profile.as_str()), (-5, "none"));
    let ids: Vec<&str> = plan.disks.iter().map(|disk| disk.id.as_str()).collect();
    assert_eq!(ids, ["boot", "data"], "the boot disk comes first");
    let boot = &plan.disks[0];
    assert_eq!(boot.allowed_paths, [PathBuf::from("/drops/chain"), PathBuf::from("/srv/base")]);
    assert!(boot.backing_chain);
    assert!(boot.checksum.as_ref().unwrap().starts_with("sha256:0123"));
    assert_eq!(plan.disks[1].boot_order_hint, 999);
    assert_eq!(plan.disks[1].bytes, Some(1024));
    let output = &plan.output;
    assert_eq!(output.directory, PathBuf::from("/drops/results"));
    assert_eq!((output.compress, output.compress_level), (Compression::Zstd, Some(3)));
    assert_eq!((output.mode, output.group.as_deref()), (Some(0o640), Some("kvm")));
    assert!(!output.report && !output.check_image_integrity);
    assert_eq!(plan.lacking, []);
    assert_eq!(plan.input.source_provider.as_deref(), Some("vsphere"));
    assert_eq!(plan.input.notes, ["first"]);
    assert_eq!(plan.input.metadata.as_ref().unwrap()["tags"]["team"], "blue");
    assert!(plan.warnings.iter().any(|warning| warning.contains("was running")), "{:?}", plan.warnings);
    assert!(plan.runs(Stage::Convert) && plan.runs(Stage::Validate) && !plan.runs(Stage::Inspect));
}

#[test]
fn addresses_for_the_guest_reach_the_plan_as_the_repair_reads_them() {
    let nics = "nics:\n  - {addresses: [192.0.2.10/24, \"2001:DB8::10/64\"], gateway: fe80::1, dns: [192.0.2.53]}\n  - {addresses: []}\n";
    let plan = plan(&format!("{MINIMAL}{nics}"));
    let card = &plan.guest.nics[0];
    assert_eq!(card.addresses, ["192.0.2.10/24", "2001:db8::10/64"]);
    assert_eq!(
        (card.gateway.as_deref(), card.dns.as_slice()),
        (Some("fe80::1"), &["192.0.2.53".to_owned()][..])
    );
    assert_eq!(plan.guest.nics[1].addresses, [""; 0]);
}

#[test]
fn the_profile_none_leaves_only_the_extracted_image() {
    let plan = plan(&format!("{MINIMAL}profile: none\n"));
    let on: Vec<Stage> = plan.stages.iter().filter(|stage| stage.enabled).map(|stage| stage.stage).collect();
    assert_eq!(on, [Stage::Load, Stage::Extraction]);
    assert_eq!(plan.output.format, OutputFormat::Qcow2);
    assert_eq!(plan.lacking, []);
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn what_a_manifest_switches_off_does_not_run() {
    let off = "pipeline: {inspect: {enabled: false}, fix: {enabled: false, backup: false}, boot_test: {enabled: false}}";
    let plan = plan(&format!("{MINIMAL}{off}\n"));
    for stage in [Stage::Inspect, Stage::Fix, Stage::BootTest] {
        assert!(!plan.runs(stage), "{stage}");
    }
    assert!(plan.runs(Stage::Validate));
    assert_eq!(plan.warnings, Vec::<String>::new());
}

#[test]
fn what_is_to_be_done_inside_the_guest_reaches_the_plan() {
    let text = format!(
        r#"{MINIMAL}
pipeline:
  fix: {{fstab_mode: bypath-only, network: false, console: false, root: /dev/sda2, on_no_os: skip, on_unsupported_guest: emulated}}
  boot_test: {{timeout_s: 2min, accel: tcg, memory_mb: 512, expect: "ready: [0-9]+"}}
luks: [{{device: /dev/sda3, key_file: /etc/hyper2kvm/credentials/web.key}}, {{credential: web}}]
"#
    );
    let mut settings = settings();
    settings.credentials.allowed_dirs = vec![PathBuf::from("/etc/hyper2kvm/credentials")];
    let submission = Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings).unwrap();
    let plan = submission.plans("web", "", &settings).unwrap().remove(0);
    let fix = &plan.guest.fix;
    assert_eq!((fix.fstab_mode, fix.root.as_deref()), (FstabMode::BypathOnly, Some("/dev/sda2")));
    assert!(!fix.network && !fix.console && fix.update_grub);
    assert_eq!((fix.on_no_os, fix.on_unsupported_guest), (OnNoOs::Skip, OnUnsupportedGuest::Emulated));
    assert_eq!((plan.boot_test.timeout_s, plan.boot_test.memory_mib), (120.0, Some(512)));
    let sources: Vec<&KeySource> = plan.guest.keys.iter().map(|key| &key.source).collect();
    let (file, stored) = ("/etc/hyper2kvm/credentials/web.key", "/etc/hyper2kvm/credentials.d/web.yaml");
    assert_eq!(sources, [&KeySource::KeyFile(file.into()), &KeySource::Credential(stored.into())]);
    assert_eq!(plan.guest.keys[0].device.as_deref(), Some("/dev/sda3"));
}

#[test]
fn how_far_disks_grow_reaches_the_plan_and_where_the_guest_stays_closed_a_warning_says_what_does_not_grow() {
    let grown = format!("{MINIMAL}    resize: +10GiB\n");
    let whole = plan(&grown);
    assert_eq!(whole.disks[0].resize, Some(PlannedGrowth::By(10 << 30)));
    assert_eq!(whole.warnings, Vec::<String>::new());
    let alone = plan(&format!("{grown}profile: none\n").replace("+10GiB", "50GiB"));
    assert_eq!(alone.disks[0].resize, Some(PlannedGrowth::To(50 << 30)));
    assert_eq!(
        alone.warnings,
        ["disk boot grows, but not the partitions and file systems in it: the stage `fix` is off"]
    );
}

#[test]
fn a_manifest_overrides_its_profile_overrides() {
    let text = format!(
        "{MINIMAL}profile_overrides: {{output: {{format: raw, preallocation: falloc}}}}\noutput: {{format: vmdk, preallocation: null}}\n"
    );
    // A null says nothing: `falloc` of the overrides stays, and does not fit vmdk.
    let error = read(&text).unwrap_err();
    assert_eq!(error.details().place.field.as_deref(), Some("profile_overrides.output.preallocation"));
    let text = text.replace(", preallocation: null", ", preallocation: 'off'");
    assert_eq!(plan(&text).output.format, OutputFormat::Vmdk);
}

#[test]
fn a_rerun_lies_beside_the_old_result_unless_it_replaces_it() {
    let directory = |extra: &str, suffix: &str| {
        let submission = read(&format!("{MINIMAL}{extra}")).unwrap();
        submission.plans("web", suffix, &settings()).unwrap().remove(0).output.directory
    };
    assert_eq!(directory("", "-2"), PathBuf::from("/state/output/web/web-2"));
    assert_eq!(directory("output: {directory: /srv/web}\n", ""), PathBuf::from("/srv/web"));
    assert_eq!(directory("output: {directory: /srv/web}\n", "-2"), PathBuf::from("/srv/web/web-2"));
    assert_eq!(directory("output: {on_exists: replace}\n", "-2"), PathBuf::from("/state/output/web/web"));
}

#[test]
fn the_content_is_what_is_done_not_how_it_is_written() {
    let hash = |text: &str| read(text).unwrap().content_sha256;
    let plain = hash(MINIMAL);
    for same in [
        format!("{MINIMAL}profile: production\n"),
        format!("{MINIMAL}rerun: all\n"),
        format!("{MINIMAL}output: {{format: qcow2}}\n"),
        format!("{MINIMAL}notes:\n"),
        MINIMAL.replace("disks/../web.vmdk", "/drops/web.vmdk"),
        MINIMAL.replace("\"1.0\"", "1.0"),
        r#"{"disks": [{"local_path": "web.vmdk", "source_format": "vmdk", "id": "boot"}], "manifest_version": "1.0"}"#
            .to_owned(),
    ] {
        assert_eq!(hash(&same), plain, "{same}");
    }
    for other in [
        format!("{MINIMAL}profile: none\n"),
        format!("{MINIMAL}output: {{format: raw}}\n"),
        MINIMAL.replace("web.vmdk", "db.vmdk"),
    ] {
        assert_ne!(hash(&other), plain, "{other}");
    }
}

#[test]
fn the_alias_of_a_field_is_the_field() {
    let hash = |extra: &str| read(&format!("{MINIMAL}{extra}")).unwrap().content_sha256;
    assert_eq!(hash("pipeline: {convert: {compress: true}}\n"), hash("output: {compress: true}\n"));
    assert_eq!(
        hash("pipeline: {convert: {check_image_integrity: false}}\n"),
        hash("pipeline: {validate: {check_image_integrity: false}}\n")
    );
}

#[test]
fn paths_outside_what_the_configuration_allows_are_refused() {
    let mut settings = settings();
    settings.paths.read = vec![PathBuf::from("/drops")];
    settings.paths.write = vec![PathBuf::from("/srv/images")];
    let read = |text: &str| Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings);
    assert!(read(MINIMAL).is_ok());
    let outside = read(&MINIMAL.replace("disks/../web.vmdk", "../drops-of-others/web.vmdk")).unwrap_err();
    assert_eq!(outside.kind().name(), "source");
    assert_eq!(outside.details().place.field.as_deref(), Some("disks[0].local_path"));
    assert_eq!(outside.details().place.line, Some(6));
    let outside = read(&format!("{MINIMAL}output: {{directory: /srv/images/../../etc}}\n")).unwrap_err();
    assert_eq!(outside.kind().name(), "output");
    assert_eq!(outside.details().place.field.as_deref(), Some("output.directory"));
    assert!(read(&format!("{MINIMAL}output: {{directory: /srv/images/web}}\n")).is_ok());
}

#[test]
fn every_value_of_a_plan_has_an_origin() {
    let text = format!("{MINIMAL}profile_overrides:\n  output: {{format: raw}}\npriority: 3\n");
    let vms = origins(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings(), &mut Nowhere).unwrap();
    let origin = |field: &str| {
        let value = vms[0].values.iter().find(|value| value.field == field);
        value.map(|value| value.origin.clone()).unwrap_or_default()
    };
    assert_eq!(vms[0].vm_id, "web");
    assert_eq!(origin("priority"), "manifest, line 9");
    assert_eq!(origin("disks"), "manifest, line 4");
    assert_eq!(origin("output.format"), "profile_overrides, line 8");
    assert_eq!(origin("pipeline.boot_test.enabled"), "profile production");
    assert_eq!(origin("preflight"), "default");
}

/// Notes where it was asked to look.
struct Looking(Vec<PathBuf>);

impl Surroundings for Looking {
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>> {
        self.0.push(origin.path().unwrap().to_owned());
        Nowhere.machines(origin)
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        Nowhere.manifest(path)
    }
}

#[test]
fn a_source_is_looked_for_from_the_manifests_directory() {
    let mut looking = Looking(Vec::new());
    let text = "manifest_version: \"1.0\"\nsource: {ova: {path: ../web.ova}}\n";
    Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings(), &mut looking)
        .unwrap_err();
    assert_eq!(looking.0, [PathBuf::from("/web.ova")]);
}

#[test]
fn a_file_named_like_an_option_or_with_spaces_is_just_a_file() {
    for (filename, id) in [("-rf.json", "rf"), ("My VM (copy).yaml", "My-VM-copy"), ("日本.yaml", "unnamed")]
    {
        let submission =
            Submission::read(MINIMAL.as_bytes(), filename, Path::new("/drops"), &settings()).unwrap();
        assert_eq!(submission.name, BatchName::Stem(id.to_owned()));
        assert_eq!(submission.vms[0].vm_id, id);
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_do_no_harm() {
    let windows = format!("\u{feff}{}", MINIMAL.replace('\n', "\r\n"));
    assert_eq!(read(&windows).unwrap(), read(MINIMAL).unwrap());
}

#[test]
fn the_examples_are_accepted() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&path).unwrap();
        let mut settings = settings();
        settings.hooks.allowed_dirs = vec![PathBuf::from("/etc/hyper2kvm/hooks")];
        let submission = Submission::read(&bytes, &name, Path::new("/drops"), &settings)
            .unwrap_or_else(|error| panic!("{error}"));
        submission.plans("example", "", &settings).unwrap();
        seen += 1;
    }
    assert!(seen >= 4, "{seen}");
}

const SETUP: &str = r##"
configuration:
  hostname: {hostname: web, domain: example.com, hosts: {192.0.2.5: db.example.com db}}
  users:
    users:
      - name: root
        password: hunter2
      - name: ops
        groups: [adm]
        password_hash: "$6$salt$svn8UoSVapNtMuq1ukKS4tPQd8iKwSMHWjl"
        ssh_keys: [ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 ops]
        sudo: true
    disable_users: [guest]
  services: {enable: [nginx], mask: [ctrl-alt-del.target]}
  firstboot:
    scripts:
      - {name: last, content: "echo last", order: 90}
      - {name: first, content: "echo first", order: 10}
      - {name: second, content: "echo second", order: 10}
  cloud_init:
    dropin_cfg: {preserve_hostname: true}
    nocloud:
      user-data: {package_update: false, users: [{name: web, lock_passwd: false}]}
  network:
    network_files: [{name: lan, content: "[Match]\nName=eth1\n"}]
    nm_connections: [{name: dmz, content: "[connection]\nid=dmz\n"}]
"##;

/// As a person reads it at the command line, where passwords in clear text are taken.
fn submission_of_a_person(text: &str) -> Submission {
    let settings = settings().for_a_person();
    Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings).unwrap()
}

#[test]
fn what_is_to_be_set_up_in_the_guest_reaches_the_plan() {
    let submission = submission_of_a_person(&format!("{MINIMAL}{SETUP}"));
    let plan = submission.plans("web", "", &settings()).unwrap().remove(0);
    let stored = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&stored).unwrap(), plan);
    let setup = plan.guest.setup.unwrap();
    assert_eq!(setup.host.unwrap().full.as_deref(), Some("web.example.com"));
    assert_eq!(setup.hosts.values().next().unwrap(), &["db.example.com", "db"]);
    let root = &setup.accounts.wanted[0];
    assert!(root.password_hash.as_ref().unwrap().0.starts_with("$6$"));
    let ops = &setup.accounts.wanted[1];
    assert_eq!(
        (ops.groups.as_slice(), ops.sudo.as_slice()),
        (&["adm".into()][..], &["ALL=(ALL:ALL) ALL".into()][..])
    );
    assert_eq!(setup.accounts.disabled, ["guest"]);
    assert_eq!(setup.services.enable, ["nginx.service"]);
    assert_eq!(setup.services.mask, ["ctrl-alt-del.target"]);
    let first_boot = setup.first_boot.unwrap();
    assert_eq!(first_boot.service, "hyper2kvm-firstboot.service");
    let scripts: Vec<&str> = first_boot.scripts.iter().map(|script| script.name.as_str()).collect();
    assert_eq!(scripts, ["01-first", "02-second", "03-last"]);
    let seed = setup.cloud_init.unwrap().seed.unwrap();
    assert!(seed.user_data.starts_with("#cloud-config\n") && seed.user_data.contains("lock_passwd: false"));
    assert!(seed.meta_data.contains("local-hostname: web.example.com"), "{}", seed.meta_data);
    assert_eq!(setup.networkd[0].name, "50-lan.network");
    assert_eq!(setup.network_manager[0].name, "dmz.nmconnection");
}

#[test]
fn a_password_is_stored_nowhere_and_its_hash_is_shown_nowhere() {
    let text = format!("{MINIMAL}{SETUP}");
    let submission = submission_of_a_person(&text);
    let plan = submission.plans("web", "", &settings()).unwrap().remove(0);
    let stored = serde_json::to_string(&submission).unwrap() + &serde_json::to_string(&plan).unwrap();
    assert!(!stored.contains("hunter2"), "{stored}");
    let shown = serde_json::to_string(&plan.clone().without_secrets()).unwrap() + &format!("{plan:?}");
    assert!(!shown.contains("$6$"), "{shown}");
    let origins =
        origins(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings().for_a_person(), &mut Nowhere)
            .unwrap();
    let told = format!("{origins:?}");
    assert!(!told.contains("hunter2") && !told.contains("svn8UoSV"), "{told}");
}

#[test]
fn the_same_password_gives_the_same_plan_and_another_is_other_content() {
    let hash = |text: &str| submission_of_a_person(text).content_sha256;
    let text = format!("{MINIMAL}{SETUP}");
    let submission = submission_of_a_person(&text);
    assert_eq!(submission, submission_of_a_person(&text));
    assert_ne!(hash(&text), hash(&text.replace("hunter2", "hunter3")));
    let of = |text: &str| {
        let setup = submission_of_a_person(text).vms[0].setup.clone().unwrap();
        setup.accounts.wanted[0].password_hash.clone().unwrap().0
    };
    let salt = |hash: &str| hash.split('$').nth(2).unwrap().to_owned();
    assert_ne!(
        salt(&of(&text)),
        salt(&of(&text.replace("hostname: web,", "hostname: db,"))),
        "one salt for two machines"
    );
}

#[test]
fn a_drop_may_hold_a_password_only_where_the_administrator_allows_it() {
    let text = format!("{MINIMAL}{SETUP}");
    let mut settings = settings();
    let read =
        |settings: &Settings| Submission::read(text.as_bytes(), "web.yaml", Path::new("/drops"), settings);
    let refused = read(&settings).unwrap_err();
    assert_eq!(refused.details().place.field.as_deref(), Some("configuration.users.users[0].password"));
    settings.credentials.allow_inline = true;
    assert!(read(&settings).is_ok());
}
