//! Mappings from outside: what `plan` tells of them, and that the example in the documentation comes to what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::disks;

/// The example, with the disks that it names.
fn site() -> TempDir {
    let dir = tempfile::Builder::new().prefix("h2k-mapped-").tempdir().unwrap();
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples/mappings.yaml");
    fs::copy(example, dir.path().join("mappings.yaml")).unwrap();
    disks::disk(dir.path(), "shop", "vmdk", 16, 4, 1);
    disks::disk(dir.path(), "shop-data", "raw", 16, 4, 2);
    dir
}

fn run(dir: &TempDir, words: &[&str]) -> Done {
    let mut command = hyper2kvm();
    command.args(words).current_dir(dir.path()).env("HYPER2KVM_STATE_DIR", dir.path().join("state"));
    command.output().unwrap().into()
}

#[test]
fn the_example_puts_disks_and_cards_where_it_says() {
    let dir = site();
    let done = run(&dir, &["convert", "mappings.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let at = |path: &str| dir.path().join(path);
    assert_eq!(
        disks::content_sha256(&at("fast/shop-system.qcow2"), "qcow2"),
        disks::content_sha256(&at("shop.vmdk"), "vmdk")
    );
    let data = at("slow/shop-data1.raw");
    assert_eq!(disks::sha256(&data), disks::sha256(&at("shop-data.raw")));
    let metadata = fs::metadata(&data).unwrap();
    assert!(metadata.blocks() * 512 >= metadata.len(), "it is thick");
    for (directory, expected) in [
        ("machines/shop", vec!["domain.xml", "report.json", "report.md", "report.txt"]),
        ("fast", vec!["shop-system.qcow2"]),
        ("slow", vec!["shop-data1.raw"]),
    ] {
        let mut names: Vec<_> =
            fs::read_dir(at(directory)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, expected, "{directory}");
    }
    let domain = fs::read_to_string(at("machines/shop/domain.xml")).unwrap();
    let place = fs::canonicalize(dir.path()).unwrap();
    insta::assert_snapshot!("mapped_domain", domain.replace(place.to_str().unwrap(), "/srv"));
}

#[test]
fn a_plan_tells_where_disks_and_cards_go_and_from_where_that_is_said() {
    let dir = site();
    let done = run(&dir, &["plan", "mappings.yaml", "--origins"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let place = fs::canonicalize(dir.path()).unwrap();
    let text =
        done.stdout.replace(place.to_str().unwrap(), "/srv").replace(dir.path().to_str().unwrap(), "/srv");
    let (plan, origins) = text.split_once("\nVALUE OF").unwrap_or_else(|| panic!("{text}"));
    insta::assert_snapshot!("mapped_plan", plan);
    let line = |field: &str| {
        let line =
            origins.lines().find(|line| line.starts_with(field)).unwrap_or_else(|| panic!("{origins}"));
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("network_mapping.source_networks.VM Network"),
        "network_mapping.source_networks.VM Network \"br0\" manifest, line 18"
    );
    assert!(
        line("storage_mapping.disk_mappings.data*.directory").contains("/slow\" manifest, line"),
        "{origins}"
    );
    let json = run(&dir, &["plan", "mappings.yaml", "--json"]).json();
    let plan = &json["plans"][0];
    assert_eq!(plan["disks"][1]["placement"]["home"]["stem"], "shop-data1");
    assert_eq!(plan["machine"]["nics"][1]["vlan"], 120);
    assert_eq!(plan["guest"]["nics"][1]["was"], "00:50:56:ab:cd:02");
}
