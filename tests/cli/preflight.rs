//! The pre-flight from outside: `validate --deep` with real inputs, one that breaks each rule and one that does not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hyper2kvm::model::validation::RULES;
use serde_json::Value;

use crate::run::{Done, hyper2kvm};
use crate::support::{bad_disks, disks};

/// A directory with a sound disk in `in/`, and what a case does to it.
struct Site {
    temp: tempfile::TempDir,
}

impl Site {
    fn new() -> Site {
        let temp = tempfile::Builder::new().prefix("h2k-preflight-").tempdir().unwrap();
        fs::create_dir(temp.path().join("in")).unwrap();
        Site { temp }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.at(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// A sound disk of 64 MiB.
    fn disk(&self, format: &str) -> PathBuf {
        disks::disk(&self.at("in"), "disk", format, 64, 1, 7)
    }

    /// A manifest of bytes alone; `disk` is what is said of its only disk, `further` what follows.
    fn manifest(&self, disk: &str, further: &str) -> PathBuf {
        let out = self.at("out").display().to_string();
        let output = if further.contains("output:") {
            String::new()
        } else {
            format!("output: {{directory: {out}}}\n")
        };
        self.write(
            "vm.yaml",
            format!("manifest_version: '1.0'\nname: web\nprofile: none\n{output}disks:\n  - {{id: boot, {disk}}}\n{further}"),
        )
    }

    /// The same of the sound disk.
    fn sound(&self, further: &str) -> PathBuf {
        let disk = self.disk("qcow2");
        self.manifest(&of(&disk, "qcow2"), further)
    }
}

/// What a manifest says of a disk.
fn of(path: &Path, format: &str) -> String {
    format!("source_format: {format}, local_path: {}", path.display())
}

fn qemu_img(words: &[&str]) {
    let done = Command::new("qemu-img").args(words).output().unwrap();
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn validate(manifest: &Path, words: &[&str]) -> Done {
    let mut command = hyper2kvm();
    command.args(words).args(["validate", "--deep", "--json"]).arg(manifest);
    command.output().unwrap().into()
}

fn results(done: &Done) -> Vec<Value> {
    done.json()["inputs"][0]["validation"]["results"].as_array().unwrap_or(&Vec::new()).clone()
}

fn rules(done: &Done) -> BTreeSet<String> {
    results(done).iter().map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

/// Breaks a rule: makes what is needed, and gives the manifest and what comes before the command.
type Breaks = fn(&Site) -> (PathBuf, Vec<String>);

fn no_words(manifest: PathBuf) -> (PathBuf, Vec<String>) {
    (manifest, Vec::new())
}

fn bad(site: &Site, name: &str) -> (PathBuf, Vec<String>) {
    let bad = bad_disks::ALL.iter().find(|bad| bad.name == name).unwrap();
    let disk = (bad.make)(&site.at("in"));
    no_words(site.manifest(&of(&disk, bad.format), ""))
}

fn vmx(site: &Site, further: &str) -> (PathBuf, Vec<String>) {
    let disk = site.disk("vmdk");
    let name = disk.file_name().unwrap().to_str().unwrap();
    site.write(
        "in/web.vmx",
        format!("displayName = \"web\"\nscsi0.present = \"TRUE\"\nscsi0:0.present = \"TRUE\"\nscsi0:0.fileName = \"{name}\"\n{further}"),
    );
    let text = format!(
        "manifest_version: '1.0'\nname: web\nprofile: none\noutput: {{directory: {}}}\nsource: {{vmx: {{path: in/web.vmx}}}}\n",
        site.at("out").display()
    );
    no_words(site.write("vm.yaml", text))
}

fn with_config(site: &Site, manifest: PathBuf, config: &str) -> (PathBuf, Vec<String>) {
    let path = site.write("config.yaml", config);
    (manifest, vec!["--config".to_owned(), path.display().to_string()])
}

/// A snapshot on the sound disk, which may have been changed since.
fn chained(site: &Site, disk: &str) -> (PathBuf, Vec<String>) {
    site.disk("qcow2");
    let top = site.at("in/top.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", "disk.qcow2", top.to_str().unwrap()]);
    no_words(site.manifest(&format!("{}{disk}", of(&top, "qcow2")), ""))
}

const CASES: [(&str, Breaks); 32] = [
    ("manifest.invalid", |site| no_words(site.sound("colour: red\n"))),
    ("manifest.hook", |site| {
        let manifest =
            site.sound("hooks: {pre_extraction: [{type: script, path: /usr/libexec/h2k/none.sh}]}\n");
        with_config(site, manifest, "hooks: {allowed_dirs: [/usr/libexec/h2k]}\n")
    }),
    ("manifest.note", |site| no_words(site.sound("options: {verbose: 1}\n"))),
    ("host.memory", |site| no_words(site.sound("vm: {mem_gb: 65536}\n"))),
    ("host.cpus", |site| no_words(site.sound("vm: {cpu: 4096}\n"))),
    ("target.exists", |site| {
        fs::create_dir(site.at("out")).unwrap();
        site.write("out/boot.qcow2", "a result");
        no_words(site.sound(""))
    }),
    ("target.directory", |site| {
        site.write("out", "a file");
        no_words(site.sound(""))
    }),
    ("target.space", |site| {
        let manifest = site.sound("");
        with_config(site, manifest, "limits: {disk_reserve: 100000TiB}\n")
    }),
    ("target.format", |site| {
        let disk = site.at("in/huge.raw");
        fs::File::create(&disk).unwrap().set_len(2041 << 30).unwrap();
        let out = site.at("out").display().to_string();
        no_words(site.manifest(
            &of(&disk, "raw"),
            &format!("pipeline: {{convert: {{enabled: true}}}}\noutput: {{format: vhd, directory: {out}}}\n"),
        ))
    }),
    ("disk.missing", |site| bad(site, "nothing-there")),
    ("disk.unreadable", |site| bad(site, "a-directory")),
    ("disk.outside", |site| bad(site, "an-extent-of-the-host")),
    ("disk.format", |site| bad(site, "a-qcow2-declared-as-vmdk")),
    ("disk.unsupported", |site| bad(site, "a-vmdk-of-version-9")),
    ("disk.device", |site| bad(site, "a-raw-device-mapping")),
    ("disk.corrupt", |site| bad(site, "grain-tables-that-overlap")),
    ("disk.cut_off", |site| bad(site, "a-cut-off-stream")),
    ("disk.open_elsewhere", |site| bad(site, "an-image-locked-by-vmware")),
    ("disk.chain", |site| {
        let (manifest, words) = chained(site, ", backing_chain: true");
        let top = site.at("in/top.qcow2");
        // It stands on itself.
        qemu_img(&["rebase", "-u", "-b", "top.qcow2", "-F", "qcow2", top.to_str().unwrap()]);
        (manifest, words)
    }),
    ("disk.snapshots", |site| chained(site, "")),
    ("disk.chain_used", |site| chained(site, ", backing_chain: true")),
    ("disk.shrinks", |site| {
        let disk = site.disk("qcow2");
        no_words(site.manifest(&format!("{}, resize: 32MiB", of(&disk, "qcow2")), ""))
    }),
    ("disk.note", |site| {
        let disk = site.disk("vhd");
        let file = fs::File::options().write(true).open(&disk).unwrap();
        let length = file.metadata().unwrap().len();
        // One of its two footers is gone.
        file.set_len(length - 512).unwrap();
        no_words(site.manifest(&of(&disk, "vhd"), ""))
    }),
    ("disk.size", |site| {
        let disk = site.disk("qcow2");
        no_words(site.manifest(&format!("{}, bytes: 12345", of(&disk, "qcow2")), ""))
    }),
    ("disk.odd_size", |site| {
        let disk = site.write("in/odd.raw", vec![7; (1 << 20) + 100]);
        no_words(site.manifest(&of(&disk, "raw"), ""))
    }),
    ("disk.no_checksum", |site| no_words(site.sound(""))),
    ("disk.independent", |site| vmx(site, "scsi0:0.mode = \"independent-persistent\"\n")),
    ("disk.shared", |site| vmx(site, "scsi0.sharedBus = \"physical\"\n")),
    ("network.mac", |site| {
        no_words(site.sound("nics: [{mac: '52:54:00:00:00:01'}, {mac: '52:54:00:00:00:01'}]\n"))
    }),
    ("network.no_mac", |site| no_words(site.sound("nics: [{bridge: lo}]\n"))),
    ("network.mapping", |site| {
        no_words(site.sound("nics: [{mac: '52:54:00:00:00:01', network: VM Network}]\n"))
    }),
    ("network.bridge", |site| no_words(site.sound("nics: [{mac: '52:54:00:00:00:01', bridge: h2k-none}]\n"))),
];

/// Rules that are broken in tests of their own: because another machine, another guest or another moment is needed.
const ELSEWHERE: [&str; 44] = [
    // Below.
    "domain.name",
    "domain.reach",
    "host.kvm",
    "target.file_size",
    // `preflight_guests.rs`, and the unit tests of `pipeline/preflight`.
    "guest.no_system",
    "guest.encrypted",
    "guest.bitlocker",
    "guest.hibernated",
    "guest.unclean",
    "guest.file_system",
    "guest.space",
    "guest.architecture",
    "guest.unsupported",
    "guest.firmware",
    "guest.virtio",
    "guest.hostname",
    "guest.not_opened",
    "domain.schema",
    // This machine has what they ask for; that it is asked is shown by what a machine without it tells, in `doctor` too.
    "host.qemu_img",
    "host.libguestfs",
    "host.virt_v2v",
    "host.qemu_system",
    "host.libvirt",
    "host.uefi",
    "host.secure_boot",
    "host.tpm",
    // A source that is written to meanwhile: `pipeline/hostile.rs`.
    "disk.changed",
    // A libvirt that is to be told: `libvirtd/stage.rs`.
    "libvirt.answers",
    "libvirt.collision",
    "libvirt.name",
    "libvirt.network",
    "libvirt.pool",
    "libvirt.volume",
    // A VM that only its server knows: `vsphere/`, and beside the rules in `pipeline/preflight/source.rs`.
    "source.login",
    "source.running",
    "source.snapshots",
    "source.consolidation",
    "source.encrypted",
    "source.no_disks",
    "source.changed",
    "source.snapshot",
    "source.shutdown",
    "source.window",
    "source.not_asked",
];

/// A manifest that nothing is to be said of, but that nobody made a checksum.
fn nothing_to_say(site: &Site) -> PathBuf {
    let disk = site.disk("qcow2");
    let sum = disks::sha256(&disk);
    let manifest = format!("{}, checksum: 'sha256:{sum}'", of(&disk, "qcow2"));
    site.manifest(&manifest, "nics: [{mac: '52:54:00:00:00:01', bridge: lo}]\n")
}

#[test]
fn each_rule_is_broken_by_an_input_that_breaks_it_and_by_no_sound_one() {
    let site = Site::new();
    let sound = validate(&nothing_to_say(&site), &[]);
    let said = rules(&sound);
    assert_eq!(sound.code, 0, "{}", sound.stdout);
    // The directory of a test may be closed to others.
    assert!(said.iter().all(|rule| rule == "domain.reach"), "{said:?}");

    for (rule, breaks) in CASES {
        let site = Site::new();
        let (manifest, words) = breaks(&site);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let done = validate(&manifest, &words);
        let found = results(&done);
        let finding = found.iter().find(|finding| finding["rule"] == rule);
        let finding = finding.unwrap_or_else(|| panic!("{rule} is not among {found:?}: {}", done.stderr));
        let known = RULES.iter().find(|known| known.name == rule).unwrap();
        assert_eq!(finding["severity"], known.severity.name(), "{finding}");
        let fails = known.severity.fails();
        assert_eq!(done.code != 0, fails, "{rule}: {}", done.stdout);
        assert_eq!(done.json()["inputs"][0]["ok"], !fails, "{rule}");
        if fails {
            assert!(finding["suggestion"].is_string(), "{finding}");
            let around = ["host.", "target."].iter().any(|group| rule.starts_with(group));
            assert_eq!(done.code, if around { 1 } else { 2 }, "{rule}");
        }
    }
}

#[test]
fn every_rule_has_a_test() {
    let mut tested: BTreeSet<&str> = CASES.iter().map(|(rule, _)| *rule).collect();
    tested.extend(ELSEWHERE);
    let all: BTreeSet<&str> = RULES.iter().map(|rule| rule.name).collect();
    assert_eq!(tested, all);
    assert_eq!(CASES.len() + ELSEWHERE.len(), all.len(), "one is tested twice");
}

#[test]
fn all_that_is_wrong_is_told_and_not_only_the_first() {
    let site = Site::new();
    fs::create_dir(site.at("out")).unwrap();
    site.write("out/boot.qcow2", "a result");
    let disk = site.disk("qcow2");
    let text = format!(
        "{}}}\n  - {{id: gone, source_format: vmdk, local_path: gone.vmdk}}\n  - {{id: odd, source_format: vmdk, local_path: {}",
        of(&disk, "qcow2"),
        site.write("in/odd.vmdk", "<html>").display()
    );
    let manifest = site.manifest(&text, "vm: {cpu: 4096}\nnics: [{bridge: h2k-none}]\n");
    let done = validate(&manifest, &[]);
    assert_eq!(done.code, 2, "{}", done.stdout);
    let found = rules(&done);
    for rule in
        ["target.exists", "disk.missing", "disk.format", "host.cpus", "network.bridge", "network.no_mac"]
    {
        assert!(found.contains(rule), "{rule} is not among {found:?}");
    }
    let input = &done.json()["inputs"][0];
    let kinds: BTreeSet<&str> =
        input["errors"].as_array().unwrap().iter().map(|error| error["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, BTreeSet::from(["exists", "source"]));
    assert_eq!(input["validation"]["counts"]["error"], 3, "{input}");
}

#[test]
fn a_rule_is_overridden_by_name_and_what_guards_data_is_not_lowered() {
    let site = Site::new();
    let level = |further: &str, rule: &str, words: &[&str]| {
        let done = validate(&site.sound(further), words);
        let found = results(&done).into_iter().find(|finding| finding["rule"] == rule);
        (found.map(|finding| finding["severity"].as_str().unwrap().to_owned()), done.code)
    };
    let raised = "vm: {cpu: 4096}\npreflight: {rules: {host.cpus: critical}}\n";
    assert_eq!(level(raised, "host.cpus", &[]), (Some("critical".to_owned()), 1));
    let off = "vm: {cpu: 4096}\npreflight: {level: metadata, rules: {host.cpus: off}}\n";
    assert_eq!(level(off, "host.cpus", &[]), (None, 0));
    // The administrator's word is raised and not lowered.
    let config = site.write("config.yaml", "preflight: {rules: {host.cpus: error}}\n");
    let words = ["--config", config.to_str().unwrap()];
    assert_eq!(level("vm: {cpu: 4096}\n", "host.cpus", &words), (Some("error".to_owned()), 1));
    assert_eq!(level(off, "host.cpus", &words), (Some("error".to_owned()), 1));

    let (manifest, _) = bad(&site, "a-cut-off-vmdk");
    let text = fs::read_to_string(&manifest).unwrap();
    let lowered = site
        .write("lowered.yaml", format!("{text}preflight: {{level: off, rules: {{disk.cut_off: off}}}}\n"));
    let done = validate(&lowered, &[]);
    assert_eq!(done.code, 2, "{}", done.stdout);
    assert!(rules(&done).contains("disk.cut_off"), "{}", done.stdout);
}

#[test]
fn off_looks_at_nothing_but_what_the_work_cannot_do_without() {
    let site = Site::new();
    let done = validate(&site.sound("vm: {cpu: 4096}\nnics: [{bridge: h2k-none}]\npreflight: off\n"), &[]);
    assert_eq!((done.code, rules(&done)), (0, BTreeSet::new()), "{}", done.stdout);
    assert_eq!(done.json()["inputs"][0]["validation"]["level"], "off");
}

#[test]
fn an_address_that_no_card_has_is_told_by_its_rule() {
    for mac in ["01:00:5e:00:00:01", "00:50:56:aa:bb", "nonsense"] {
        let done = validate(&Site::new().sound(&format!("nics: [{{mac: '{mac}', bridge: lo}}]\n")), &[]);
        assert_eq!((done.code, rules(&done)), (2, BTreeSet::from(["network.mac".to_owned()])), "{mac}");
    }
}

/// The Python program said that a damaged image had passed.
#[test]
fn validation_cannot_fail_is_over_every_disk_that_is_broken_is_told_to_be() {
    for bad in bad_disks::ALL {
        let site = Site::new();
        let disk = (bad.make)(&site.at("in"));
        let done = validate(&site.manifest(&of(&disk, bad.format), ""), &[]);
        let input = &done.json()["inputs"][0];
        assert!(done.code == 2 && input["ok"] == false, "{}: {}", bad.name, done.stdout);
        let failing = results(&done);
        let failing = failing.iter().find(|finding| finding["severity"] == "error").unwrap();
        let rule = RULES.iter().find(|rule| failing["rule"] == rule.name);
        assert!(rule.is_some_and(|rule| rule.guarded), "{}: {failing}", bad.name);
        assert_eq!(failing["kind"], bad.kind, "{}: {failing}", bad.name);
    }
}

#[test]
fn a_name_that_libvirt_would_change_and_a_directory_that_it_cannot_enter_are_told() {
    use std::os::unix::fs::PermissionsExt;
    let site = Site::new();
    let disk = site.disk("qcow2");
    fs::set_permissions(site.temp.path(), fs::Permissions::from_mode(0o750)).unwrap();
    let text = format!(
        "manifest_version: '1.0'\nname: a/b\nprofile: none\noutput: {{directory: {}}}\ndisks: [{{id: boot, {}}}]\n",
        site.at("out").display(),
        of(&disk, "qcow2")
    );
    let found = rules(&validate(&site.write("vm.yaml", text), &[]));
    assert!(found.contains("domain.name") && found.contains("domain.reach"), "{found:?}");
    fs::set_permissions(site.temp.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let found = rules(&validate(&nothing_to_say(&site), &[]));
    assert!(!found.contains("domain.name") && !found.contains("domain.reach"), "{found:?}");
}

#[test]
fn a_result_that_is_longer_than_a_file_may_be_is_told() {
    let site = Site::new();
    let out = site.at("out").display().to_string();
    let manifest = site.sound(&format!(
        "pipeline: {{convert: {{enabled: true}}}}\noutput: {{format: raw, directory: {out}}}\n"
    ));
    let limited = |bytes: u64| -> Done {
        let mut command = Command::new("prlimit");
        command.arg(format!("--fsize={bytes}")).arg(env!("CARGO_BIN_EXE_hyper2kvm"));
        command.args(["validate", "--deep", "--json"]).arg(&manifest).output().unwrap().into()
    };
    let done = limited(32 << 20);
    assert_eq!((done.code, rules(&done).contains("target.file_size")), (1, true), "{}", done.stdout);
    assert!(!rules(&limited(64 << 20)).contains("target.file_size"));
}

#[test]
fn that_kvm_does_not_work_is_told_where_a_guest_runs() {
    let doctor: Done = hyper2kvm().args(["doctor", "--json"]).output().unwrap().into();
    let checks = doctor.json()["checks"].as_array().unwrap().clone();
    let works = checks.iter().any(|check| check["name"] == "kvm" && check["status"] == "ok");
    let site = Site::new();
    let tried = "preflight: metadata\npipeline: {boot_test: {enabled: true}}\n";
    let found = rules(&validate(&site.sound(tried), &[]));
    assert_eq!(found.contains("host.kvm"), !works, "{found:?}");
    assert!(!rules(&validate(&site.sound(""), &[])).contains("host.kvm"));
}

#[test]
fn people_read_a_table_the_worst_first() {
    let site = Site::new();
    fs::create_dir(site.at("out")).unwrap();
    site.write("out/boot.qcow2", "a result");
    let manifest = site.sound("vm: {cpu: 4096}\nnics: [{mac: '52:54:00:00:00:01', bridge: h2k-none}]\npreflight: {rules: {domain.reach: off}}\n");
    let done: Done = hyper2kvm().args(["validate", "--deep"]).arg(&manifest).output().unwrap().into();
    assert_eq!(done.code, 1);
    let cpus = std::thread::available_parallelism().unwrap().to_string();
    let told = done
        .stdout
        .replace(site.temp.path().to_str().unwrap(), "")
        .replace(&format!("this host {cpus}"), "this host N");
    insta::assert_snapshot!(told);
}
