//! From a batch's file to the plans of its VMs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Kind, Result};
use hyper2kvm::model::facts::{Controller, Facts, FoundDisk};
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::machine::NicLink;
use hyper2kvm::model::plan::{OutputFormat, Plan, SourceFormat};
use hyper2kvm::model::planner::{BatchName, Origin, Rerun, Submission, Surroundings, complaints, origins};

/// Manifests and machines as if they lay around.
#[derive(Default)]
struct Around {
    manifests: BTreeMap<&'static str, &'static str>,
    machines: Vec<&'static str>,
}

impl Surroundings for Around {
    fn machines(&mut self, origin: &Origin) -> Result<Vec<Facts>> {
        let each = matches!(origin, Origin::Folder { group_by: Some(_), .. });
        let directory = origin.path().unwrap();
        let disk = |name: &str| FoundDisk {
            id: name.to_owned(),
            path: directory.join(format!("{name}.qcow2")),
            member: None,
            format: SourceFormat::Qcow2,
            capacity_bytes: None,
            checksum: None,
            packing: None,
            piece_checksums: Vec::new(),
            allowed_paths: Vec::new(),
            is_chain: false,
            controller: Controller::Other,
            bus: 0,
            unit: 0,
        };
        let machine =
            |name: &str, disks: Vec<FoundDisk>| Facts { name: name.to_owned(), disks, ..Facts::default() };
        Ok(match each {
            true => self.machines.iter().map(|name| machine(name, vec![disk(name)])).collect(),
            false => vec![machine("all", self.machines.iter().map(|name| disk(name)).collect())],
        })
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        let text = self.manifests.get(path.to_str().unwrap());
        text.map(|text| text.as_bytes().to_vec())
            .ok_or_else(|| Error::new(Kind::Manifest, format!("{} is not there", path.display())))
    }
}

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

fn read_in(text: &str, around: &mut Around) -> Result<Submission> {
    Submission::read_with(text.as_bytes(), "weekend.yaml", Path::new("/drops"), &settings(), around)
}

fn read(text: &str) -> Submission {
    read_in(text, &mut Around::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn plans(submission: &Submission) -> Vec<Plan> {
    submission.plans("weekend", "", &settings()).unwrap()
}

fn ids(submission: &Submission) -> Vec<&str> {
    submission.vms.iter().map(|vm| vm.vm_id.as_str()).collect()
}

#[test]
fn each_layer_goes_before_those_below_it() {
    let submission = read_in(
        r#"
batch_version: "1.0"
batch_metadata: {batch_id: weekend, parallel_limit: 2, continue_on_error: false, rerun: changed}
shared_config:
  output_directory: out
  profile: archive
  output: {format: raw, compress: false}
  pipeline: {boot_test: {enabled: false}}
vms:
  - manifest: vms/web.yaml
    priority: 7
    overrides: {output: {format: vdi}, profile_overrides: {pipeline: {validate: {enabled: true}}}}
  - id: db
    manifest: {name: database, disks: [{id: boot, source_format: raw, local_path: db.img}]}
  - manifest:
      profile: fast
      output: {directory: own, format: qcow2}
      disks: [{id: boot, source_format: raw, local_path: x.img}]
"#,
        &mut Around {
            manifests: BTreeMap::from([(
                "/drops/vms/web.yaml",
                r#"{manifest_version: "1.0", name: web, priority: 3, profile_overrides: {pipeline: {validate: {enabled: false}}},
                    pipeline: {inspect: {enabled: false}}, output: {format: qcow2},
                    disks: [{id: boot, source_format: raw, local_path: web.img}]}"#,
            )]),
            ..Around::default()
        },
    )
    .unwrap();
    assert_eq!(submission.name, BatchName::Named("weekend".to_owned()));
    assert_eq!(
        (submission.parallel_limit, submission.fail_fast, submission.rerun),
        (Some(2), true, Rerun::Changed)
    );
    assert_eq!(ids(&submission), ["web", "db", "vm_2"]);
    let plans = plans(&submission);
    let [web, db, third] = plans.as_slice() else { panic!("{plans:?}") };

    assert_eq!(web.output.format, OutputFormat::Vdi, "overrides before the manifest before shared_config");
    assert_eq!(web.profile, "archive");
    assert!(!web.runs(Stage::BootTest) && !web.runs(Stage::Inspect) && web.runs(Stage::Validate));
    assert_eq!(web.priority, 7);
    assert_eq!(web.disks[0].source, PathBuf::from("/drops/vms/web.img"), "counted from its own file");
    assert_eq!(web.output.directory, PathBuf::from("/drops/out/web"));
    assert_eq!(web.input.path.as_deref(), Some("/drops/vms/web.yaml"));

    assert_eq!((db.vm_id.as_str(), db.name.as_str()), ("db", "database"));
    assert_eq!(db.output.format, OutputFormat::Raw);
    assert_eq!(db.disks[0].source, PathBuf::from("/drops/db.img"));

    assert_eq!((third.name.as_str(), third.profile.as_str()), ("vm_2", "fast"));
    assert_eq!(third.output.directory, PathBuf::from("/drops/own"), "its files lie directly there");
    assert!(third.output.format == OutputFormat::Qcow2 && !third.runs(Stage::BootTest));
}

#[test]
fn one_bad_vm_of_a_hundred_is_refused_alone_and_its_line_is_told() {
    let good = |number: usize| {
        format!(
            "  - {{id: vm{number}, manifest: {{disks: [{{id: a, source_format: raw, local_path: {number}.img}}]}}}}\n"
        )
    };
    let mut text = "batch_version: \"1.0\"\nvms:\n".to_owned();
    (0..100).for_each(|number| {
        text += &match number {
            41 => "  - {id: vm41, manifest: {disks: [{id: a, source_formt: raw, local_path: 41.img}]}}\n"
                .to_owned(),
            _ => good(number),
        }
    });
    let submission = read(&text);
    assert_eq!(submission.vms.len(), 99);
    let [refused] = submission.refused.as_slice() else { panic!("{:?}", submission.refused) };
    assert_eq!(refused.vm_id, "vm41");
    let place = &refused.error.details().place;
    assert_eq!(place.file.as_deref(), Some(Path::new("weekend.yaml")));
    assert_eq!(
        (place.line, place.field.as_deref()),
        (Some(44), Some("vms[41].manifest.disks[0].source_formt"))
    );
    assert!(refused.error.to_string().contains("source_format"), "{}", refused.error);
    assert_eq!(plans(&submission).len(), 99);
}

#[test]
fn whatever_is_wrong_with_a_vm_stays_with_that_vm() {
    let good = "{disks: [{id: a, source_format: raw, local_path: a.img}]}";
    for (entry, field, word) in [
        ("{id: bad, priorty: 1, manifest: GOOD}", "vms[1].priorty", "priority"),
        ("{id: bad, manifest: 7}", "vms[1].manifest", "a path"),
        ("{id: bad}", "vms[1].manifest", "select"),
        ("{id: bad, manifest: gone.yaml}", "vms[1].manifest", "not there"),
        ("{id: bad, manifest: broken.yaml}", "disks[0].id", "required"),
        ("{id: bad, manifest: versionless.yaml}", "manifest_version", "required"),
        ("{id: bad, manifest: batch.yaml}", "batch_version", "batches do not hold batches"),
        ("{id: bad, manifest: GOOD, overrides: {vm: {cpu: 0}}}", "vms[1].overrides.vm.cpu", "range"),
        ("{id: bad, manifest: GOOD, overrides: {profile: fastt}}", "vms[1].overrides.profile", "`fast`"),
        ("{id: bad, manifest: GOOD, depends_on: [nobody]}", "vms[1].depends_on[0]", "nobody"),
        ("{id: bad, manifest: GOOD, depends_on: [bad]}", "vms[1].depends_on[0]", "no other VM"),
        ("{id: bad, manifest: GOOD, depends_on: [off]}", "vms[1].depends_on[0]", "switched off"),
        ("just text", "vms[1]", "text"),
    ] {
        let entry = entry.replace("GOOD", good);
        let text = format!(
            "batch_version: \"1.0\"\nvms:\n  - {{id: good, manifest: {good}}}\n  - {entry}\n  - {{id: off, enabled: false, nonsense: 1}}\n"
        );
        let mut around = Around {
            manifests: BTreeMap::from([
                (
                    "/drops/broken.yaml",
                    "manifest_version: \"1.0\"\ndisks: [{source_format: raw, local_path: b.img}]\n",
                ),
                ("/drops/versionless.yaml", "disks: [{id: a, source_format: raw, local_path: b.img}]\n"),
                ("/drops/batch.yaml", "batch_version: \"1.0\"\nvms: []\n"),
            ]),
            ..Around::default()
        };
        let submission = read_in(&text, &mut around).unwrap_or_else(|error| panic!("{entry}: {error}"));
        assert_eq!(ids(&submission), ["good"], "{entry}");
        let [refused] = submission.refused.as_slice() else { panic!("{entry}: {submission:?}") };
        let details = refused.error.details();
        assert_eq!(details.place.field.as_deref(), Some(field), "{entry}: {}", refused.error);
        assert!(refused.error.to_string().contains(word), "{entry}: {}", refused.error);
        assert!(details.place.line.is_some() && details.place.file.is_some(), "{entry}: {}", refused.error);
        let all = complaints(text.as_bytes(), "weekend.yaml", Path::new("/drops"), &settings(), &mut around);
        assert!(!all.is_empty(), "{entry}");
    }
}

#[test]
fn a_batch_of_none_is_legal_and_one_of_none_that_could_run_is_not() {
    assert!(read("batch_version: \"1.0\"\nvms: []\n").vms.is_empty());
    let off = "batch_version: \"1.0\"\nvms: [{enabled: false, manifest: gone.yaml}]\n";
    assert!(read(off).vms.is_empty() && read(off).refused.is_empty());
    let error = read_in("batch_version: \"1.0\"\nvms: [{manifest: gone.yaml}]\n", &mut Around::default());
    assert!(error.unwrap_err().to_string().contains("gone.yaml"));
}

#[test]
fn what_is_the_same_content_depends_on_every_vm_and_not_on_the_files_name() {
    let text = |format: &str| {
        format!(
            "batch_version: \"1.0\"\nvms: [{{id: a, manifest: {{disks: [{{id: a, source_format: {format}, local_path: a}}]}}}}]\n"
        )
    };
    let content = |text: &str, name: &str| {
        Submission::read(text.as_bytes(), name, Path::new("/drops"), &settings()).unwrap().content_sha256
    };
    assert_eq!(content(&text("raw"), "a.yaml"), content(&text("raw"), "b.yaml"));
    assert_ne!(content(&text("raw"), "a.yaml"), content(&text("qcow2"), "a.yaml"));
}

#[test]
fn a_folder_is_one_vm_for_each_disk_or_for_each_group_and_names_choose_among_them() {
    let mut around = Around { machines: vec!["web-1", "web-2", "db-1"], ..Around::default() };
    for (entry, wanted) in [
        ("select: {folder: exports}", &["web-1", "web-2", "db-1"][..]),
        ("select: {folder: exports, names: [\"web-*\"]}", &["web-1", "web-2"]),
        ("select: {folder: exports, exclude: [\"*-1\"]}", &["web-2"]),
        ("{select: {names: [\"db*\"]}, manifest: {source: {local: {directory: exports}}}}", &["db-1"]),
        (
            "manifest: {source: {local: {directory: exports, group_by: \"^(?<vm>.+)-(?<disk>.+)$\"}}}",
            &["web-1", "web-2", "db-1"],
        ),
        ("manifest: {source: {local: {directory: exports}}}", &["all"]),
    ] {
        let entry = if entry.starts_with('{') { entry.to_owned() } else { format!("{{{entry}}}") };
        let text = format!("batch_version: \"1.0\"\nshared_config: {{profile: fast}}\nvms:\n  - {entry}\n");
        let submission = read_in(&text, &mut around).unwrap_or_else(|error| panic!("{entry}: {error}"));
        assert_eq!(ids(&submission), wanted, "{entry}: {:?}", submission.refused);
        let plans = plans(&submission);
        assert!(plans.iter().all(|plan| plan.profile == "fast"), "{entry}");
        assert!(plans[0].disks[0].source.starts_with("/drops/exports"), "{entry}: {:?}", plans[0].disks);
        assert_eq!(plans[0].name, wanted[0]);
    }
    for (entry, word) in [
        ("{select: {folder: exports, names: [mail]}}", "no VM there is called like `mail`"),
        ("{select: {folder: exports, exclude: [\"*\"]}}", "nothing is left"),
        ("{id: one, select: {folder: exports}}", "the id of several VMs"),
        ("{select: {folder: exports, tags: [a]}}", "tags"),
        ("{select: {names: [a]}}", "nothing to select from"),
        ("{select: {folder: exports}, manifest: {source: {local: {directory: other}}}}", "named already"),
    ] {
        let text = format!("batch_version: \"1.0\"\nvms:\n  - {entry}\n");
        let error = read_in(&text, &mut around).unwrap_err();
        assert!(error.to_string().contains(word), "{entry}: {error}");
        assert!(error.details().advice.is_some(), "{entry}: {error}");
    }
}

#[test]
fn a_mapping_that_is_shared_need_not_be_for_every_vm_and_one_of_a_vm_has_to_be() {
    let text = |shared: &str, own: &str| {
        format!(
            r#"
batch_version: "1.0"
shared_config: {{{shared}}}
vms:
  - id: a
    manifest: {{{own}nics: [{{network: VM Network}}], disks: [{{id: boot, source_format: raw, local_path: a.img}}]}}
  - id: b
    manifest: {{nics: [{{network: DMZ}}], disks: [{{id: boot, source_format: raw, local_path: b.img}}]}}
"#
        )
    };
    let mapping = "network_mapping: {source_networks: {VM Network: br0, DMZ: br1}}";
    let shared = read(&text(mapping, ""));
    assert_eq!(shared.refused, vec![]);
    let link = |plan: &Plan| plan.machine.as_ref().unwrap().nics[0].link.clone();
    let bridges: Vec<NicLink> = plans(&shared).iter().map(link).collect();
    assert_eq!(bridges, ["br0", "br1"].map(|name| NicLink::Bridge(name.to_owned())));
    let own = read(&text("", &format!("{mapping}, ")));
    assert_eq!(own.refused.len(), 1, "{:?}", own.refused);
    assert!(own.refused[0].error.to_string().contains("DMZ"), "{}", own.refused[0].error);
}

#[test]
fn a_mapping_that_is_shared_and_for_no_vm_of_the_batch_is_refused_where_it_stands() {
    let text = |shared: &str, second: &str| {
        format!(
            r#"
batch_version: "1.0"
shared_config:
  {shared}
vms:
  - id: a
    manifest: {{nics: [{{network: VM Network}}], disks: [{{id: boot, source_format: raw, local_path: a.img}}]}}
  - id: b
    manifest: {{disks: [{{id: boot, source_format: {second}, local_path: b.img}}]}}
"#
        )
    };
    for (shared, field, told) in [
        (
            "network_mapping: {source_networks: {VM Network: br0, VM Netwrok: br1}}",
            "shared_config.network_mapping.source_networks.VM Netwrok",
            "no machine of the batch has a network card that `VM Netwrok` is for",
        ),
        (
            "storage_mapping: {disk_mappings: {boot: /srv/fast, 'data*': /srv/slow}}",
            "shared_config.storage_mapping.disk_mappings.data*",
            "no machine of the batch has a disk that `data*` is for",
        ),
    ] {
        let error = read_in(&text(shared, "raw"), &mut Around::default()).unwrap_err();
        let place = &error.details().place;
        assert_eq!((place.field.as_deref(), place.line), (Some(field), Some(4)), "{error}");
        assert_eq!(error.details().cause, told);
        // As long as one cannot be read, it may be for that one.
        assert_eq!(read(&text(shared, "nonsense")).refused.len(), 1);
    }
    let optional =
        "network_mapping: {source_networks: {VM Network: br0, Old: {bridge: br1, optional: true}}}";
    assert_eq!(read(&text(optional, "raw")).refused, vec![]);
}

#[test]
fn where_each_value_comes_from_is_told_for_each_vm() {
    let text = r#"
batch_version: "1.0"
shared_config: {profile: fast, output: {format: raw}}
vms:
  - id: a
    manifest: {name: alpha, disks: [{id: boot, source_format: raw, local_path: a.img}]}
    overrides:
      vm: {cpu: 8}
"#;
    let vms =
        origins(text.as_bytes(), "weekend.yaml", Path::new("/drops"), &settings(), &mut Around::default())
            .unwrap();
    let of = |field: &str| {
        vms[0].values.iter().find(|value| value.field == field).map(|value| value.origin.as_str())
    };
    assert_eq!(vms[0].vm_id, "a");
    assert_eq!(of("name"), Some("manifest, line 6"));
    assert_eq!(of("vm.cpu"), Some("overrides, line 8"));
    assert_eq!(of("output.format"), Some("shared_config, line 3"));
    assert_eq!(of("pipeline.inspect.enabled"), Some("profile fast"));
}

#[test]
fn ten_thousand_vms_that_wait_for_each_other_in_a_row_are_no_circle() {
    let mut text = "batch_version: \"1.0\"\nvms:\n".to_owned();
    for number in 0..10_000 {
        let waits = if number == 0 { String::new() } else { format!(", depends_on: [v{}]", number - 1) };
        text += &format!(
            "  - {{id: v{number}{waits}, manifest: {{disks: [{{id: a, source_format: raw, local_path: {number}.img}}]}}}}\n"
        );
    }
    let submission = read(&text);
    assert_eq!((submission.vms.len(), submission.refused.len()), (10_000, 0));
}

#[test]
fn a_window_is_the_batchs_and_no_part_of_its_content() {
    let with = |window: &str| {
        read(&format!(
            "batch_version: \"1.0\"\nbatch_metadata: {{{window}}}\nvms:\n  - manifest: {{disks: [{{id: a, source_format: raw, local_path: a.img}}]}}\n"
        ))
    };
    let windowed =
        with(r#"window: {tz: europe/berlin, open: "Sat 22:00", close: "Sun 05:00", at_close: hold}"#);
    let window = windowed.window.clone().unwrap();
    assert!(window.gates_start() && window.holds_at_close());
    assert!(window.in_words(1.8e9).contains("Europe/Berlin"), "{}", window.in_words(1.8e9));
    let plain = with("");
    assert_eq!(plain.window, None);
    assert_eq!(
        plain.content_sha256, windowed.content_sha256,
        "when it runs does not change what comes of it"
    );
    assert_eq!(windowed.clone_without_vms().window, windowed.window);
    for submission in [plain, windowed] {
        let kept = serde_json::to_string(&submission).unwrap();
        assert_eq!(serde_json::from_str::<Submission>(&kept).unwrap(), submission);
    }
}
