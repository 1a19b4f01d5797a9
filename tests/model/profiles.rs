//! Profiles of one's own: chains, what lies over what, and what is said when a chain cannot be.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use hyper2kvm::model::config::Settings;
use hyper2kvm::model::error::{Error, Result};
use hyper2kvm::model::facts::Facts;
use hyper2kvm::model::job::Stage;
use hyper2kvm::model::manifest::PROFILE_NAMES;
use hyper2kvm::model::plan::{Compression, OutputFormat, Plan};
use hyper2kvm::model::planner::{
    Origin, ProfileFile, ProfileFiles, ResolvedProfile, Submission, Surroundings, origins,
    profile_complaints, resolve_profile,
};

use crate::golden;

const DIRECTORY: &str = "/etc/hyper2kvm/profiles";

/// Profiles by name, as if they lay in the directory that was asked for.
#[derive(Clone)]
struct Shelf {
    directory: String,
    texts: BTreeMap<String, String>,
}

fn shelf(texts: &[(&str, &str)]) -> Shelf {
    let texts = texts.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
    Shelf { directory: DIRECTORY.to_owned(), texts: texts.collect() }
}

impl ProfileFiles for Shelf {
    fn file(&mut self, name: &str) -> Result<Option<ProfileFile>> {
        let path = Path::new(&self.directory).join(format!("{name}.yaml"));
        Ok(self.texts.get(name).map(|text| ProfileFile { path, bytes: text.clone().into_bytes() }))
    }

    fn names(&mut self) -> Vec<String> {
        self.texts.keys().cloned().collect()
    }
}

impl Surroundings for Shelf {
    fn machines(&mut self, _: &Origin) -> Result<Vec<Facts>> {
        unreachable!("no manifest here names a source")
    }

    fn manifest(&mut self, path: &Path) -> Result<Vec<u8>> {
        unreachable!("no batch here names {}", path.display())
    }

    fn profile(&mut self, name: &str, directory: &Path) -> Result<Arc<ResolvedProfile>> {
        self.directory = directory.display().to_string();
        resolve_profile(name, self).map(Arc::new)
    }
}

fn settings() -> Settings {
    Settings::defaults(Path::new("/state"), 2)
}

const MANIFEST: &str =
    "manifest_version: \"1.0\"\ndisks: [{id: boot, source_format: raw, local_path: web.img}]\n";

fn submission(shelf: &Shelf, text: &str) -> Result<Submission> {
    let mut shelf = shelf.clone();
    Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings(), &mut shelf)
}

fn plan(shelf: &Shelf, further: &str) -> Plan {
    let submission =
        submission(shelf, &format!("{MANIFEST}{further}")).unwrap_or_else(|error| panic!("{error}"));
    submission.plans("web", "", &settings()).unwrap().remove(0)
}

fn refused(shelf: &Shelf, further: &str) -> Error {
    submission(shelf, &format!("{MANIFEST}{further}")).unwrap_err()
}

/// Where each value comes from.
fn origin_of(shelf: &Shelf, text: &str) -> impl Fn(&str) -> String + use<> {
    let mut shelf = shelf.clone();
    let vms =
        origins(text.as_bytes(), "web.yaml", Path::new("/drops"), &settings(), &mut shelf).unwrap().remove(0);
    move |field| {
        let value = vms.values.iter().find(|value| value.field == field);
        value.map(|value| value.origin.clone()).unwrap_or_default()
    }
}

/// In the Python package the file with the built-in profiles was missing: it knew of none.
#[test]
fn the_built_in_profiles_are_part_of_the_program_and_resolve_to_the_contracts_values() {
    let mut table = String::new();
    for name in PROFILE_NAMES {
        let profile = resolve_profile(name, &mut shelf(&[])).unwrap();
        assert!(profile.description.is_some(), "{name}");
        table.push_str(&format!("{name}: {}\n", profile.description.unwrap()));
        let manifest = submission(&shelf(&[]), &format!("{MANIFEST}profile: {name}\n")).unwrap();
        for (field, value) in flat(&manifest.vms[0].manifest) {
            if !field.starts_with("disks") {
                table.push_str(&format!("  {field}: {value}\n"));
            }
        }
    }
    golden::check("golden/built-in-profiles.txt", &table);
}

fn flat(value: &serde_json::Value) -> Vec<(String, String)> {
    match value {
        serde_json::Value::Object(fields) => {
            let inner = fields.iter().flat_map(|(key, value)| {
                flat(value).into_iter().map(move |(rest, value)| match rest.is_empty() {
                    true => (key.clone(), value),
                    false => (format!("{key}.{rest}"), value),
                })
            });
            inner.collect()
        }
        leaf => vec![(String::new(), leaf.to_string())],
    }
}

#[test]
fn a_chain_is_laid_over_each_other_and_every_value_names_its_file_and_line() {
    let shelf = shelf(&[
        (
            "fast-web",
            "extends: web\npipeline:\n  boot_test: {enabled: false}\n  fix:\n    print_fstab: true\n",
        ),
        ("web", "description: Web servers\nextends: production\noutput:\n  format: raw\n  mode: \"0640\"\n"),
    ]);
    let text = format!("{MANIFEST}profile: fast-web\n");
    let plan = plan(&shelf, "profile: fast-web\n");
    assert_eq!(
        (plan.profile.as_str(), plan.output.format, plan.output.mode),
        ("fast-web", OutputFormat::Raw, Some(0o640))
    );
    assert!(!plan.runs(Stage::BootTest) && plan.runs(Stage::Validate));
    assert!(plan.guest.fix.print_fstab && plan.guest.fix.network, "maps merge");
    let reason =
        |stage: Stage| plan.stages.iter().find(|planned| planned.stage == stage).unwrap().reason.clone();
    assert_eq!(reason(Stage::BootTest), "the profile fast-web switches it off");
    assert_eq!(reason(Stage::Fix), "the profile fast-web switches it on");
    let origin = origin_of(&shelf, &text);
    assert_eq!(
        origin("pipeline.boot_test.enabled"),
        "profile fast-web (/etc/hyper2kvm/profiles/fast-web.yaml), line 3"
    );
    assert_eq!(
        origin("pipeline.fix.print_fstab"),
        "profile fast-web (/etc/hyper2kvm/profiles/fast-web.yaml), line 5"
    );
    assert_eq!(origin("output.format"), "profile web (/etc/hyper2kvm/profiles/web.yaml), line 4");
    assert_eq!(origin("pipeline.fix.network"), "profile production");
    assert_eq!(origin("preflight"), "default");
    assert_eq!(origin("description") + &origin("extends"), "");
}

#[test]
fn the_order_is_profile_then_its_overrides_then_what_is_shared_then_the_manifest_then_the_batchs_overrides() {
    let shelf = shelf(&[
        ("base", "output: {format: raw, compress: false, mode: \"0600\"}\n"),
        ("web", "extends: base\noutput: {mode: \"0604\"}\n"),
    ]);
    let everyone = |all: &[(&str, &str)]| {
        let said = |who: &str| {
            let value = all.iter().find(|(whose, _)| *whose == who);
            value.map_or("{}".to_owned(), |(_, value)| format!("{{output: {{format: {value}}}}}"))
        };
        let output = all
            .iter()
            .find(|(whose, _)| *whose == "manifest")
            .map_or(String::new(), |(_, value)| format!(", output: {{format: {value}}}"));
        format!(
            "batch_version: \"1.0\"\nshared_config: {}\nvms:\n- id: a\n  overrides: {}\n  manifest: {{profile: web, profile_overrides: {}, \
             disks: [{{id: boot, source_format: raw, local_path: web.img}}]{output}}}\n",
            said("shared"),
            said("overrides"),
            said("profile_overrides"),
        )
    };
    let order =
        [("profile_overrides", "vdi"), ("shared", "vhd"), ("manifest", "vmdk"), ("overrides", "qcow2")];
    let formats =
        [OutputFormat::Raw, OutputFormat::Vdi, OutputFormat::Vhd, OutputFormat::Vmdk, OutputFormat::Qcow2];
    for (count, format) in formats.into_iter().enumerate() {
        let read = submission(&shelf, &everyone(&order[..count])).unwrap_or_else(|error| panic!("{error}"));
        let plan = read.plans("b", "", &settings()).unwrap().remove(0);
        assert_eq!((plan.output.format, plan.output.mode), (format, Some(0o604)), "{count}");
        // Without those below it, the strongest still holds.
        let alone = submission(&shelf, &everyone(&order[count.saturating_sub(1)..count])).unwrap();
        assert_eq!(alone.plans("b", "", &settings()).unwrap()[0].output.format, format, "{count}");
    }
}

#[test]
fn a_custom_profile_stands_in_the_place_of_a_built_in_one_and_may_build_on_it() {
    let shelf = shelf(&[
        ("production", "extends: production\noutput: {compress: zstd}\n"),
        ("web", "extends: production\n"),
    ]);
    for further in ["", "profile: production\n", "profile: web\n"] {
        let plan = plan(&shelf, further);
        assert_eq!(plan.output.compress, Compression::Zstd, "{further}");
        assert!(plan.runs(Stage::BootTest), "{further}");
    }
    let chain = |name: &str| {
        let profile = resolve_profile(name, &mut shelf.clone()).unwrap();
        profile.chain.iter().map(|level| (level.name.clone(), level.file.is_some())).collect::<Vec<_>>()
    };
    let level = |name: &str, custom| (name.to_owned(), custom);
    assert_eq!(chain("web"), [level("web", true), level("production", true), level("production", false)]);
    assert_eq!(chain("archive"), [level("archive", false)]);
}

#[test]
fn a_profile_that_extends_nothing_lies_over_the_defaults_alone() {
    let plan = plan(&shelf(&[("alone", "output: {format: raw}\n")]), "profile: alone\n");
    assert!(plan.runs(Stage::Convert) && plan.runs(Stage::Validate) && !plan.runs(Stage::Fix));
}

#[test]
fn relative_paths_in_a_profile_count_from_its_own_directory() {
    let hooks = "hooks: {post_convert: [{type: script, path: hooks/note, args: [x]}]}\n";
    let shelf = shelf(&[
        ("web", "extends: none\npipeline: {convert: {enabled: true}}\n"),
        ("hooked", &format!("extends: web\n{hooks}")),
    ]);
    let mut allowing = settings();
    allowing.hooks.allowed_dirs = vec![DIRECTORY.into()];
    let text = format!("{MANIFEST}profile: hooked\n");
    let read = Submission::read_with(
        text.as_bytes(),
        "web.yaml",
        Path::new("/drops"),
        &allowing,
        &mut shelf.clone(),
    )
    .unwrap();
    let plan = read.plans("web", "", &allowing).unwrap().remove(0);
    assert!(format!("{:?}", plan.hooks).contains("/etc/hyper2kvm/profiles/hooks/note"), "{:?}", plan.hooks);
    // What a profile has run is bound as what a manifest has run, and told where it stands.
    let error = refused(&shelf, "profile: hooked\n");
    assert_eq!(error.details().place.file.as_deref(), Some(Path::new("/etc/hyper2kvm/profiles/hooked.yaml")));
    assert_eq!(
        (error.details().place.line, error.details().place.field.as_deref()),
        (Some(2), Some("hooks.post_convert[0].path"))
    );
}

#[test]
fn a_manifest_may_name_another_directory_of_profiles_within_what_it_may_read() {
    let shelf = shelf(&[("web", "extends: none\n")]);
    let origin = origin_of(
        &shelf,
        &format!("{MANIFEST}profile: web\nprofiles_directory: profiles\noutput: {{format: qcow2}}\n"),
    );
    assert_eq!(origin("pipeline.fix.enabled"), "profile none");
    let told =
        refused(&self::shelf(&[("web", "nonsense: 1\n")]), "profile: web\nprofiles_directory: ../own\n");
    assert_eq!(told.details().place.file.as_deref(), Some(Path::new("/own/web.yaml")), "{told}");
    let mut bound = settings();
    bound.paths.read = vec!["/drops".into()];
    let read = |directory: &str| {
        let text = format!("{MANIFEST}profile: web\nprofiles_directory: {directory}\n");
        Submission::read_with(text.as_bytes(), "web.yaml", Path::new("/drops"), &bound, &mut shelf.clone())
    };
    assert!(read("profiles").is_ok());
    let error = read("/etc/hyper2kvm/credentials.d").unwrap_err();
    assert_eq!(error.details().place.field.as_deref(), Some("profiles_directory"));
    assert!(error.to_string().contains("paths.read"), "{error}");
}

#[test]
fn where_a_profile_lies_and_what_it_is_called_make_no_other_content_but_what_it_says_does() {
    let hash = |text: &str, name: &str| {
        submission(&shelf(&[(name, text)]), &format!("{MANIFEST}profile: {name}\n")).unwrap().content_sha256
    };
    let raw = "extends: production\noutput: {format: raw}\n";
    assert_eq!(hash(raw, "a"), hash(raw, "b"));
    assert_eq!(hash("extends: production\n", "a"), submission(&shelf(&[]), MANIFEST).unwrap().content_sha256);
    assert_ne!(hash(raw, "a"), hash("extends: production\noutput: {format: vdi}\n", "a"));
    let elsewhere = format!("{MANIFEST}profile: a\nprofiles_directory: elsewhere\n");
    assert_eq!(submission(&shelf(&[("a", raw)]), &elsewhere).unwrap().content_sha256, hash(raw, "a"));
}

#[test]
fn a_profile_spares_ten_machines_more_than_four_fifths_of_what_their_manifests_would_say() {
    let common = "pipeline:\n  fix:\n    print_fstab: true\n    on_no_os: skip\n    console: false\n  validate: {read_back: true}\n  \
                  boot_test:\n    timeout_s: 900\n    memory_mb: 2048\noutput:\n  format: qcow2\n  compress: zstd\n  mode: \"0640\"\n";
    let shelf = shelf(&[("web", &format!("extends: production\n{common}"))]);
    let (long, short) = (format!("{MANIFEST}{common}"), format!("{MANIFEST}profile: web\n"));
    let content = |text: &str| submission(&shelf, text).unwrap().content_sha256;
    assert_eq!(content(&long), content(&short));
    let lines = |text: &str| text.lines().count();
    let with_profile = 10 * (lines(&short) - lines(MANIFEST)) + lines(common) + 1;
    assert!(with_profile * 5 <= 10 * lines(common), "{with_profile} lines of {}", 10 * lines(common));
}

#[test]
fn what_is_wrong_with_a_chain_is_told_with_the_chain_and_the_line() {
    let long: Vec<(String, String)> = (1..=9)
        .map(|number| (format!("p{number}"), format!("description: '{number}'\nextends: p{}\n", number + 1)))
        .collect();
    let long: Vec<(&str, &str)> = long.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let cases: [(&str, &[(&str, &str)]); 18] = [
        ("prodction", &[]),
        ("ours", &[("web", "extends: none\n")]),
        ("wbe", &[("web", "extends: none\n")]),
        ("../web", &[("web", "extends: none\n")]),
        ("default", &[]),
        ("a", &[("a", "description: A\nextends: b\n"), ("b", "extends: a\n")]),
        ("a", &[("a", "extends: b\n"), ("b", "extends: c\n"), ("c", "output: {format: raw}\nextends: b\n")]),
        ("web", &[("web", "extends: base\n"), ("base", "pipeline: {}\nextends: prodution\n")]),
        ("web", &[("web", "description: x\n\nextends: web\n")]),
        ("production", &[("production", "extends: base\n"), ("base", "extends: production\n")]),
        ("p1", &long),
        ("web", &[("web", "extends: ../../shadow\n")]),
        ("web", &[("web", "extends: base\n"), ("base", "pipeline:\n  fix: {enabeld: true}\n")]),
        ("web", &[("web", "extends: none\nmanifest_version: \"1.0\"\n")]),
        ("web", &[("web", "output: {format: raw, preallocation: metadata}\n")]),
        ("web", &[("web", "extends: none\noutput: {directory: results}\n")]),
        ("web", &[("web", "extends: none\noutput: {pool: images}\n")]),
        (
            "web",
            &[("web", "extends: none\noutput: {compress: zstd}\npipeline: {convert: {compress: zlib}}\n")],
        ),
    ];
    let mut said = String::new();
    for (name, texts) in cases {
        let error = refused(&shelf(texts), &format!("profile: {name}\n"));
        said.push_str(&format!("{}: {error}\n", error.kind()));
    }
    golden::check("golden/bad-profiles.txt", &said);
}

#[test]
fn the_profile_that_a_batch_names_is_told_where_the_batch_names_it() {
    let batch = "batch_version: \"1.0\"\nshared_config:\n  profile: wbe\nvms:\n- manifest: {name: a, disks: [{id: boot, source_format: raw, local_path: a.img}]}\n";
    let shelf = shelf(&[("web", "extends: none\n")]);
    let error = submission(&shelf, batch).unwrap_err();
    assert_eq!(
        (error.details().place.line, error.details().place.field.as_deref()),
        (Some(3), Some("shared_config.profile"))
    );
    assert!(error.to_string().contains("did you mean `web`?"), "{error}");
    assert_eq!(submission(&shelf, &batch.replace("wbe", "web")).unwrap().vms[0].manifest["profile"], "web");
}

#[test]
fn a_profiles_file_is_checked_as_it_would_be_in_its_place() {
    let all = |path: &str, text: &str| {
        let file = ProfileFile { path: path.into(), bytes: text.as_bytes().to_vec() };
        let mut bound = settings();
        bound.paths.read = vec!["/srv".into()];
        profile_complaints(
            &file,
            &bound,
            &mut shelf(&[("base", "extends: web\n"), ("good", "extends: fast\n")]),
        )
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
    };
    assert_eq!(all("/tmp/web.yaml", "extends: good\noutput: {format: raw}\n"), Vec::<String>::new());
    let circle = all("/tmp/web.yaml", "extends: base\n");
    assert!(circle[0].contains("web -> base -> web") && circle[0].contains("base.yaml:1:10"), "{circle:?}");
    assert_eq!(all("/tmp/web.yaml", "extend: good\noutptu: {}\n").len(), 2);
    let wrong =
        all("/tmp/web.yaml", "output: {pool: images}\nhooks: {pre_fix: [{type: script, path: /bin/true}]}\n");
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong.iter().all(|said| said.starts_with("/tmp/web.yaml:")), "{wrong:?}");
    let pooled = "output: {pool: images}\nlibvirt_integration: {enabled: true}\n";
    assert_eq!(
        all("/tmp/web.yaml", pooled),
        Vec::<String>::new(),
        "whether there is such a pool is not its matter"
    );
    assert!(all("/tmp/web server.yaml", "extends: none\n")[0].contains("no name of a profile"));
    assert!(all("/tmp/web.yml", "extends: none\n")[0].contains("<name>.yaml"));
}
