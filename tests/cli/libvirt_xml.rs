//! Domains of libvirt: manifests of them, and converting them, from outside. What needs a libvirt that answers is tried in `tests/libvirtd`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::disks;

/// Where the domains of the tests have their disks; in its place comes a directory of the test.
const IMAGES: &str = "/var/lib/libvirt/images";

fn qemu_img(words: &[&str]) {
    let done = Command::new("qemu-img").args(words).output().expect("qemu-img is installed by set-up");
    assert!(done.status.success(), "{words:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn at(directory: &Path, words: &[&str]) -> Done {
    hyper2kvm().args(words).current_dir(directory).output().unwrap().into()
}

/// A domain of `tests/cli/domains`, with its disks in a directory of its own; small and empty ones.
struct Site {
    dir: TempDir,
    images: String,
}

impl Site {
    fn empty() -> Site {
        let dir = tempfile::Builder::new().prefix("h2k-domain-").tempdir().unwrap();
        let images = dir.path().join("images").to_str().unwrap().to_owned();
        fs::create_dir(&images).unwrap();
        Site { dir, images }
    }

    /// Writes a domain with its paths led here.
    fn write(&self, name: &str, xml: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, xml.replace(IMAGES, &self.images)).unwrap();
        path
    }

    fn of(name: &str) -> Site {
        let site = Site::empty();
        let written = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli/domains").join(name);
        let path = site.write("domain.xml", &fs::read_to_string(written).unwrap());
        let text = fs::read_to_string(path).unwrap();
        let document = roxmltree::Document::parse(&text).unwrap();
        for disk in document.descendants().filter(|node| node.has_tag_name("disk")) {
            let child = |name: &str| disk.children().find(|child| child.has_tag_name(name));
            let format = child("driver").and_then(|driver| driver.attribute("type")).unwrap_or("raw");
            // From below: what a disk stands on has to be there first.
            let mut files: Vec<&str> = disk
                .descendants()
                .filter(|node| node.has_tag_name("source"))
                .filter_map(|source| source.attribute("file"))
                .filter(|file| file.starts_with(&site.images))
                .collect();
            files.reverse();
            let mut below: Option<&str> = None;
            for file in files {
                fs::create_dir_all(Path::new(file).parent().unwrap().join("sub")).unwrap();
                match below.replace(file) {
                    None => qemu_img(&["create", "-q", "-f", format, file, "8M"]),
                    Some(below) => {
                        qemu_img(&["create", "-q", "-f", format, "-b", below, "-F", format, file]);
                    }
                }
            }
        }
        site
    }

    /// What is said, with the paths led back.
    fn told(&self, done: &Done) -> String {
        let text = format!("exit code {}\n{}{}", done.code, done.stderr, done.stdout);
        text.replace(&self.images, IMAGES).replace(self.dir.path().to_str().unwrap(), "DIR")
    }
}

/// The manifest of each domain, or why there is none, is what is written down beside this test.
fn held_to_its_manifest(name: &str) {
    let site = Site::of(&format!("{name}.xml"));
    let done = at(site.dir.path(), &["manifest", "domain.xml", "--no-compute-checksums"]);
    insta::assert_snapshot!(format!("domain-{name}"), site.told(&done));
    if done.code != 0 {
        let error = at(site.dir.path(), &["manifest", "domain.xml", "--json"]).error_json();
        assert!(error["kind"] == "source" || error["kind"] == "unsupported", "{error}");
        assert!(error["suggestion"].is_string(), "{error}");
        return;
    }
    // What is written is a manifest.
    fs::write(site.dir.path().join("vm.yaml"), &done.stdout).unwrap();
    let validated = at(site.dir.path(), &["validate", "vm.yaml", "domain.xml"]);
    assert_eq!(validated.code, 0, "{}{}", validated.stdout, validated.stderr);
}

macro_rules! domains {
    ($($test:ident: $name:literal,)*) => {
        $(#[test]
        fn $test() {
            held_to_its_manifest($name);
        })*
    };
}

domains! {
    a_uefi_guest_with_two_disks: "rhel9-uefi",
    a_guest_with_secure_boot_a_tpm_three_disks_and_two_cards: "rhel10-secure-boot",
    a_bios_guest_of_an_old_machine_type: "centos7-bios",
    a_windows_guest: "windows-2022",
    an_old_windows_guest_with_ide_disks_of_other_formats: "windows-xp-ide",
    a_domain_as_it_runs_with_a_chain_of_snapshots_in_two_directories: "backing-chain",
    the_disk_that_boots_comes_first_and_its_bus_is_the_machines: "boot-order",
    units_of_memory_and_processors_that_could_be_more: "hotplug",
    shared_transient_and_read_only_disks_are_told: "shared-and-transient",
    uefi_without_secure_boot_and_nvram_of_its_own: "nvram",
    names_that_nobody_would_choose: "hostile-names",
    cards_of_every_kind: "many-cards",
    a_disk_that_is_a_device_is_refused: "block",
    a_disk_on_a_server_is_refused: "rbd",
    a_disk_that_its_host_encrypts_is_refused: "encrypted",
    a_machine_with_drives_only_is_refused: "drives-only",
    a_machine_without_disks_is_refused: "no-disks",
    a_machine_of_another_architecture_is_refused: "aarch64",
    a_container_is_refused: "container",
    a_paravirtual_machine_is_refused: "xen-paravirtual",
}

#[test]
fn a_volume_that_no_libvirt_knows_is_refused() {
    let site = Site::of("volumes.xml");
    let error = at(site.dir.path(), &["manifest", "domain.xml", "--json"]).error_json();
    assert_eq!(error["kind"], "libvirt", "{error}");
    assert!(error["suggestion"].is_string(), "{error}");
}

/// A domain with this in the place of its disks.
fn domain(disks: &str) -> String {
    format!(
        "<domain type='kvm'><name>web</name><memory unit='MiB'>64</memory><vcpu>1</vcpu>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{disks}</devices></domain>"
    )
}

fn disk(target: &str, file: &str) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{file}'/>\
         <target dev='{target}' bus='virtio'/></disk>"
    )
}

#[test]
fn a_domain_is_converted_with_all_its_disks_whatever_its_file_is_called() {
    let site = Site::empty();
    let images = PathBuf::from(&site.images);
    let system = disks::disk(&images, "system", "qcow2", 16, 4, 1);
    let base = disks::disk(&images, "base", "qcow2", 16, 3, 2);
    fs::create_dir(images.join("overlays")).unwrap();
    let overlay = images.join("overlays/data.qcow2");
    let (base, over) = (base.to_str().unwrap(), overlay.to_str().unwrap());
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", over]);
    let chain = format!(
        "<disk type='file'><driver name='qemu' type='qcow2'/><source file='{over}'/><backingStore type='file'>\
         <format type='qcow2'/><source file='{base}'/></backingStore><target dev='vdb' bus='virtio'/></disk>"
    );
    // One names its disk as lying beside it.
    symlink(&system, site.dir.path().join("system.qcow2")).unwrap();
    site.write(
        "web",
        &format!("<!-- written by hand -->\n{}", domain(&[disk("vda", "system.qcow2"), chain].concat())),
    );
    let done = at(site.dir.path(), &["convert", "web", "-o", "out", "--no-fix", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    for (id, source) in [("vda", &system), ("vdb", &overlay)] {
        let result = site.dir.path().join(format!("out/{id}.qcow2"));
        assert_eq!(disks::content_sha256(source, "qcow2"), disks::content_sha256(&result, "qcow2"), "{id}");
    }
    let written = fs::read_to_string(site.dir.path().join("out/domain.xml")).unwrap();
    assert!(written.contains("<name>web</name>") && written.contains("machine='q35'"), "{written}");
}

#[test]
fn a_manifest_names_a_domain_and_says_what_is_to_be_otherwise() {
    let site = Site::of("rhel9-uefi.xml");
    let manifest =
        "manifest_version: \"1.0\"\nprofile: none\nsource: {libvirt-xml: {path: domain.xml}}\nvm: {cpu: 7}\n";
    fs::write(site.dir.path().join("vm.yaml"), manifest).unwrap();
    let plan = at(site.dir.path(), &["plan", "vm.yaml", "--json", "--origins"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    let document = plan.json();
    assert_eq!(document["plans"][0]["name"], "rhel9");
    let ids: Vec<&Value> =
        document["plans"][0]["disks"].as_array().unwrap().iter().map(|disk| &disk["id"]).collect();
    assert_eq!(ids, ["vda", "vdb"]);
    let values = document["origins"][0]["values"].as_array().unwrap();
    let origin = |field: &str| values.iter().find(|value| value["field"] == field).unwrap()["origin"].clone();
    assert_eq!((origin("vm.cpu"), origin("vm.mem_mb")), (json!("manifest, line 4"), json!("source")));
    assert_eq!(origin("vm.os_version"), "source");
    // What is said in another unit goes before the source, too.
    fs::write(site.dir.path().join("more.yaml"), manifest.replace("cpu: 7", "mem_gb: 3")).unwrap();
    let plan = at(site.dir.path(), &["plan", "more.yaml", "--json"]);
    assert_eq!(plan.json()["plans"][0]["machine"]["memory_mib"], 3072, "{}", plan.stderr);
    // The same of the domain itself, which nobody has written a manifest of.
    let plan = at(site.dir.path(), &["plan", "domain.xml", "--json", "--origins"]);
    assert_eq!(plan.code, 0, "{}", plan.stderr);
    let values = plan.json()["origins"][0]["values"].as_array().unwrap().clone();
    assert!(
        values.iter().any(|value| value["field"] == "vm.cpu" && value["origin"] == "domain"),
        "{values:?}"
    );
}

#[test]
fn a_batch_takes_domains() {
    let site = Site::of("rhel9-uefi.xml");
    let batch = "batch_version: \"1.0\"\nshared_config: {profile: none}\nvms:\n\
        - {id: one, manifest: {source: {libvirt-xml: {path: domain.xml}}, vm: {cpu: 2}}}\n\
        - {id: gone, manifest: {source: {libvirt-xml: {path: gone.xml}}}}\n";
    fs::write(site.dir.path().join("batch.yaml"), batch).unwrap();
    let plan = at(site.dir.path(), &["plan", "batch.yaml", "--json"]);
    assert_eq!(plan.json()["plans"][0]["vm_id"], "one");
    let error = plan.error_json();
    assert_eq!((plan.code, &error["kind"]), (1, &json!("source")), "{error}");
}

#[test]
fn a_source_that_says_too_little_or_too_much_is_refused_at_its_line() {
    let site = Site::of("rhel9-uefi.xml");
    for (source, field, word) in [
        ("{}", "source.libvirt-xml", "not said"),
        ("{path: domain.xml, domain: web}", "source.libvirt-xml.domain", "already"),
        ("{path: domain.xml, uri: 'qemu:///system'}", "source.libvirt-xml.uri", "already"),
        ("{uri: 'qemu:///system'}", "source.libvirt-xml", "`domain` is required"),
        ("{domain: web}", "source.libvirt-xml", "`uri` is required"),
        ("{uri: 'qemu+ssh://other/system', domain: web}", "source.libvirt-xml.uri", "may not name"),
        ("{uri: 'test:///default', domain: test}", "source.libvirt-xml.uri", "may not name"),
    ] {
        let manifest =
            format!("manifest_version: \"1.0\"\nprofile: none\nsource:\n  libvirt-xml: {source}\n");
        fs::write(site.dir.path().join("vm.yaml"), manifest).unwrap();
        let done = at(site.dir.path(), &["plan", "vm.yaml", "--json"]);
        let error = done.error_json();
        assert_eq!(
            (&error["kind"], &error["field"]),
            (&json!("manifest"), &json!(field)),
            "{source}: {error}"
        );
        assert_eq!(error["line"], 4, "{source}: {error}");
        assert!(
            error["error"].as_str().unwrap().contains(word) && error["suggestion"].is_string(),
            "{error}"
        );
    }
}

#[test]
fn domains_that_cannot_be_read_are_refused_with_a_reason() {
    let site = Site::empty();
    let images = PathBuf::from(&site.images);
    disks::disk(&images, "a", "qcow2", 8, 1, 1);
    fs::create_dir(images.join("directory")).unwrap();
    fs::write(images.join("top.qcow2"), "").unwrap();
    let good = disk("vda", &format!("{IMAGES}/a.qcow2"));
    let many: String = (0..100_000).map(|_| "<x/>").collect();
    let deep = format!("{}{}", "<x>".repeat(20_000), "</x>".repeat(20_000));
    let laughs = "<!DOCTYPE domain [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;&a;&a;&a;&a;'>]>";
    let outside = "<!DOCTYPE domain [<!ENTITY f SYSTEM 'file:///etc/passwd'>]>";
    let loops = format!(
        "<disk type='file'><driver type='qcow2'/><source file='{IMAGES}/a.qcow2'/>{}{}<target dev='vda'/></disk>",
        format!("<backingStore type='file'><source file='{IMAGES}/a.qcow2'/>").repeat(40),
        "</backingStore>".repeat(40)
    );
    let machine = |part: &str| domain(&good).replace("<memory unit='MiB'>64</memory>", part);
    for (xml, kind, word) in [
        (String::new(), "source", "refused"),
        ("not XML".to_owned(), "source", "refused"),
        ("<domain type='kvm'>".to_owned(), "source", "refused"),
        (domain(&good).replace("web", "we\0b"), "source", "refused"),
        (domain(&good).replace("web", "&bomb;"), "source", "bomb"),
        (format!("{laughs}{}", domain(&good).replace("web", "&b;")), "source", "document type"),
        (format!("{outside}{}", domain(&good).replace("web", "&f;")), "source", "document type"),
        (domain(&many), "source", "more than 50000 elements"),
        (format!("{}{}", domain(&good), " ".repeat(5 << 20)), "source", "more than 4 MiB"),
        (domain(&loops), "source", "more than 32 others"),
        (
            "<domainsnapshot><domain/></domainsnapshot>".to_owned(),
            "source",
            "another kind (`domainsnapshot`)",
        ),
        ("<network><name>default</name></network>".to_owned(), "source", "another kind (`network`)"),
        (
            machine("<memory unit='KiB'>18446744073709551615</memory>"),
            "source",
            "line 1: a machine cannot have",
        ),
        (machine("<memory unit='TiB'>99999999999999999999</memory>"), "source", "cannot have"),
        (machine("<memory unit='EiB'>16</memory>"), "source", "cannot have"),
        (machine("<memory unit='furlong'>16</memory>"), "source", "`furlong`"),
        (machine("<memory>0</memory>"), "source", "cannot have"),
        (machine("<memory>-1</memory>"), "source", "cannot have"),
        (machine("<uuid>not-a-uuid</uuid>"), "source", "no UUID"),
        (domain(&good).replace("<vcpu>1", "<vcpu>0"), "source", "processors"),
        (domain(&good).replace("<vcpu>1", "<vcpu>4294967297"), "source", "processors"),
        (domain(&good).replace("<vcpu>1", "<vcpu current='x'>1"), "source", "processors"),
        (domain(&disk("vda", &format!("{IMAGES}/gone.qcow2"))), "source", "its disk `vda` is not there: "),
        (
            domain(&disk("vdb", &format!("{IMAGES}/directory"))),
            "source",
            "its disk `vdb` is not a plain file",
        ),
        (domain(&disk("vda", "/dev/null")), "unsupported", "is the device /dev/null"),
        (domain(&disk("vda", &format!("{IMAGES}/a.qcow2&#10;x"))), "source", "characters in `file`"),
        (domain(&disk("vda", "")), "source", "has no `file`"),
        (domain(&disk("", &format!("{IMAGES}/a.qcow2"))), "source", "has no `<target dev=…>`"),
        (domain(&[good.clone(), good.clone()].concat()), "source", "called `vda`"),
        (domain(&[good.clone(), good.replace("vda", "vdb")].concat()), "source", "two of its disks are"),
        (domain(&good.replace("type='qcow2'", "type='qed'")), "unsupported", "format `qed`"),
        (domain(&good.replace("type='file'", "type='vhostuser'")), "unsupported", "of the kind `vhostuser`"),
        (domain(&good.replace("<target", "<boot order='first'/><target")), "source", "is no number"),
        (domain("<disk type='file'><target dev='vda'/></disk>"), "source", "has no `<source>`"),
    ] {
        site.write("odd.xml", &xml);
        let done = at(site.dir.path(), &["convert", "odd.xml", "-o", "out", "--no-fix", "--json"]);
        let error = done.error_json();
        let told = error["error"].as_str().unwrap();
        assert_eq!(error["kind"], kind, "{word}: {error}");
        assert!(told.contains(word), "{word}: {error}");
        assert!(error["suggestion"].is_string() && told.len() < 1000, "{error}");
        assert!(!site.dir.path().join("out").exists(), "{word}: something was written");
    }
    // What is no harm: it is deep, and nobody looks into it.
    site.write("deep.xml", &domain(&[deep, good].concat()));
    let done = at(site.dir.path(), &["manifest", "deep.xml", "--no-compute-checksums"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    // The XML itself is a plain file.
    symlink("odd.xml", site.dir.path().join("link.xml")).unwrap();
    let error = at(site.dir.path(), &["convert", "link.xml", "--no-fix", "--json"]).error_json();
    assert!(error["error"].as_str().unwrap().contains("symbolic link"), "{error}");
}

#[test]
fn what_a_disk_stands_on_has_to_be_there_too() {
    let site = Site::of("backing-chain.xml");
    fs::remove_file(Path::new(&site.images).join("base/debian-12.qcow2")).unwrap();
    let done = at(site.dir.path(), &["convert", "domain.xml", "-o", "out", "--no-fix", "--json"]);
    let error = done.error_json();
    assert_eq!(error["kind"], "source");
    let told = error["error"].as_str().unwrap();
    assert!(
        told.contains("what its disk `vda` stands on is not there") && told.contains("debian-12.qcow2"),
        "{error}"
    );
}

#[test]
fn a_domain_of_a_manifest_touches_nothing_outside_of_what_may_be_read() {
    let site = Site::empty();
    let images = PathBuf::from(&site.images);
    let inside = images.join("inside");
    fs::create_dir(&inside).unwrap();
    let secret = disks::disk(&images, "secret", "qcow2", 8, 1, 1);
    symlink(&secret, inside.join("link.qcow2")).unwrap();
    let config = format!("paths: {{read: [{}]}}\n", inside.display());
    fs::write(site.dir.path().join("config.yaml"), config).unwrap();
    fs::write(
        site.dir.path().join("vm.yaml"),
        "manifest_version: \"1.0\"\nprofile: none\nsource: {libvirt-xml: {path: images/inside/web.xml}}\n",
    )
    .unwrap();
    let told = |file: &str| {
        site.write("images/inside/web.xml", &domain(&disk("vda", file)));
        let done = at(site.dir.path(), &["validate", "vm.yaml", "--config", "config.yaml", "--json"]);
        let error = done.json()["inputs"][0]["errors"][0].clone();
        assert_eq!(
            (&error["kind"], &error["field"]),
            (&json!("source"), &json!("source.libvirt-xml.path")),
            "{error}"
        );
        error["error"].as_str().unwrap().to_owned()
    };
    // Whether it is there is nothing that it may find out.
    for file in
        [format!("{IMAGES}/secret.qcow2"), format!("{IMAGES}/gone"), format!("{IMAGES}/inside/link.qcow2")]
    {
        assert!(told(&file).contains("does not lie below any of `paths.read`"), "{file}");
    }
    assert!(told("gone.qcow2").contains("is not there"));
}

#[test]
fn a_domain_is_asked_for_by_its_name() {
    let site = Site::empty();
    for (input, kind, word) in [
        ("libvirt://", "source", "names no domain"),
        ("libvirt://a/b", "source", "names no domain"),
        // No libvirt listens here, or it has no such machine.
        ("libvirt://no such machine", "libvirt", "cannot"),
    ] {
        for command in ["convert", "manifest", "plan", "validate"] {
            let done = at(site.dir.path(), &[command, input, "--json"]);
            let error = match command {
                "validate" => done.json()["inputs"][0]["errors"][0].clone(),
                _ => done.error_json(),
            };
            assert_eq!(error["kind"], kind, "{command} {input}: {error}");
            assert!(error["error"].as_str().unwrap().contains(word), "{command} {input}: {error}");
            assert!(error["suggestion"].is_string(), "{error}");
        }
    }
}
