//! `profiles`, and profiles of one's own on the command line.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use crate::run::{Done, hyper2kvm};
use crate::support::hooks::Hooks;

/// A directory with a configuration, profiles and a disk.
fn site(profiles: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("profiles")).unwrap();
    for (name, text) in profiles {
        fs::write(dir.path().join("profiles").join(format!("{name}.yaml")), text).unwrap();
    }
    let config = format!("profiles_dir: {}\n", dir.path().join("profiles").display());
    fs::write(dir.path().join("config.yaml"), config).unwrap();
    fs::File::create(dir.path().join("a.img")).unwrap().set_len(1 << 20).unwrap();
    dir
}

fn at(dir: &TempDir, words: &[&str]) -> Done {
    hyper2kvm()
        .current_dir(dir.path())
        .args(["--config", "config.yaml"])
        .args(words)
        .env("HYPER2KVM_STATE_DIR", dir.path().join("state"))
        .output()
        .unwrap()
        .into()
}

/// What was printed, the same wherever the site is.
fn shown(dir: &TempDir, text: &str) -> String {
    // Columns follow the length of the path.
    let text = text.replace(dir.path().to_str().unwrap(), "/site");
    text.lines()
        .map(|line| line.split("  ").filter(|part| !part.is_empty()).collect::<Vec<_>>().join("  ") + "\n")
        .collect()
}

const PROFILES: [(&str, &str); 4] = [
    ("web", "description: Web servers\nextends: production\noutput:\n  format: raw\n  mode: \"0640\"\n"),
    (
        "fast-web",
        "extends: web\npipeline:\n  boot_test: {enabled: false}\nhooks:\n  on_failure:\n    - {type: http, url: \"https://example.com/x\"}\n",
    ),
    ("production", "description: Ours\nextends: production\n"),
    ("broken", "extends: wbe\n"),
];

#[test]
fn the_list_tells_where_each_profile_comes_from_and_what_is_wrong_with_it() {
    let dir = site(&PROFILES);
    let done = at(&dir, &["profiles"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    insta::assert_snapshot!("profiles", shown(&dir, &done.stdout));
    let json = at(&dir, &["profiles", "--json"]).json();
    let all = json["profiles"].as_array().unwrap();
    let one = |name: &str| all.iter().find(|profile| profile["name"] == name).unwrap();
    assert_eq!(all.len(), 8 + 3);
    assert_eq!((one("archive")["file"].is_null(), &one("archive")["shadows_builtin"]), (true, &false.into()));
    assert_eq!(
        (one("production")["description"].as_str(), &one("production")["shadows_builtin"]),
        (Some("Ours"), &true.into())
    );
    assert_eq!(one("fast-web")["extends"], "web");
    assert_eq!(one("broken")["error"]["line"], 1);
}

#[test]
fn one_profile_is_printed_as_a_profile_with_where_each_value_comes_from() {
    let dir = site(&PROFILES);
    let done = at(&dir, &["profiles", "fast-web"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    insta::assert_snapshot!("profiles-one", done.stdout.replace(dir.path().to_str().unwrap(), "/site"));
    fs::write(dir.path().join("profiles/again.yaml"), &done.stdout).unwrap();
    let values = |name: &str| {
        let json = at(&dir, &["profiles", name, "--json"]).json();
        let of = |value: &serde_json::Value| (value["field"].clone(), value["value"].clone());
        json["values"].as_array().unwrap().iter().map(of).collect::<Vec<_>>()
    };
    assert_eq!(values("again"), values("fast-web"));
    let json = at(&dir, &["profiles", "fast-web", "--json"]).json();
    let chain: Vec<&str> =
        json["chain"].as_array().unwrap().iter().map(|level| level["name"].as_str().unwrap()).collect();
    assert_eq!(chain, ["fast-web", "web", "production", "production"]);
    let format =
        json["values"].as_array().unwrap().iter().find(|value| value["field"] == "output.format").unwrap();
    assert!(format["origin"].as_str().unwrap().ends_with("profiles/web.yaml), line 4"), "{format}");
}

#[test]
fn a_profile_that_is_not_there_or_wrong_ends_with_2_and_says_why() {
    let dir = site(&PROFILES);
    for (name, said) in [
        ("fast-wbe", "did you mean `fast-web`?"),
        ("broken", "broken.yaml:1:10: extends: there is no profile `wbe`: broken -> wbe"),
        ("../config", "no name of a profile"),
    ] {
        let done = at(&dir, &["profiles", name]);
        assert_eq!(done.code, 2, "{name}");
        assert!(done.stderr.contains(said), "{name}: {}", done.stderr);
        assert_eq!(at(&dir, &["--json", "profiles", name]).error_json()["exit_code"], 2);
    }
}

/// `plan`, `convert` and `validate` take the profiles of the configuration.
#[test]
fn a_plan_says_which_line_of_which_profile_a_value_comes_from() {
    let dir = site(&PROFILES);
    let manifest = "manifest_version: \"1.0\"\nname: vm\nprofile: fast-web\ndisks: [{id: boot, source_format: raw, local_path: a.img}]\n";
    fs::write(dir.path().join("vm.yaml"), manifest).unwrap();
    let done = at(&dir, &["plan", "vm.yaml", "--origins"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let from = format!("profile web ({}), line 4", dir.path().join("profiles/web.yaml").display());
    assert!(done.stdout.contains(&from), "{}", done.stdout);
    assert!(done.stdout.contains("the profile fast-web switches it off"), "{}", done.stdout);
    let disk = at(&dir, &["plan", "--json", "a.img"]).json();
    assert_eq!(disk, at(&dir, &["convert", "--dry-run", "--json", "a.img"]).json());
    let planned = at(&dir, &["convert", "--dry-run", "--profile", "web", "a.img"]);
    assert!(planned.stdout.contains("a.raw"), "{}", planned.stdout);
    // What is wrong in a profile is told there, whatever was to be converted by it.
    fs::write(dir.path().join("bad.yaml"), manifest.replace("fast-web", "broken")).unwrap();
    for input in ["a.img", "bad.yaml"] {
        let done = at(&dir, &["convert", "--dry-run", "--profile", "broken", input]);
        assert!(done.code == 2 && done.stderr.contains("profiles/broken.yaml:1:10"), "{}", done.stderr);
        assert!(done.stderr.contains("broken -> wbe"), "{}", done.stderr);
    }
}

#[test]
fn validate_tells_a_profile_by_its_keys_or_its_place_and_checks_its_whole_chain() {
    let dir = site(&PROFILES);
    let of = |path: &str, text: Option<&str>| {
        if let Some(text) = text {
            fs::write(dir.path().join(path), text).unwrap();
        }
        let done = at(&dir, &["validate", dir.path().join(path).to_str().unwrap()]);
        (done.code, done.stdout)
    };
    assert_eq!(of("profiles/fast-web.yaml", None).0, 0, "{:?}", of("profiles/fast-web.yaml", None));
    let (code, said) = of("profiles/broken.yaml", None);
    assert!(code == 2 && said.contains("broken -> wbe"), "{said}");
    let (code, said) =
        of("new.yaml", Some("extends: web\nhooks: {pre_fix: [{type: script, path: /bin/true}]}\n"));
    assert!(code == 2 && said.contains("new.yaml:2:") && said.contains("hooks.allowed_dirs"), "{said}");
    let (code, said) = of("profiles/keys.yaml", Some("pipline: {}\n"));
    assert!(code == 2 && said.contains("did you mean `pipeline`?"), "{said}");
}

/// Hooks of a profile come from where the configuration allows it, as those of a manifest.
#[test]
fn hooks_of_a_profile_are_bound_like_those_of_a_manifest() {
    let hooks = Hooks::new();
    let path = hooks.script("note", "echo \"$1\" >>\"$2\"");
    let profile = format!(
        "extends: none\npipeline: {{convert: {{enabled: true}}}}\nhooks:\n  on_success:\n    - {{type: script, path: {}, args: [\"{{{{ vm_name }}}}\", {}]}}\n",
        path.display(),
        hooks.file("notes").display()
    );
    let dir = site(&[("hooked", &profile)]);
    let convert = || at(&dir, &["convert", "a.img", "--profile", "hooked", "-o", "out"]);
    let done = convert();
    assert_eq!(done.code, 2, "{}", done.stderr);
    assert!(
        done.stderr.contains("hooked.yaml:5:") && done.stderr.contains("hooks.allowed_dirs"),
        "{}",
        done.stderr
    );
    let config = dir.path().join("config.yaml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(config, format!("{text}hooks: {{allowed_dirs: [{}]}}\n", hooks.allowed().display())).unwrap();
    let done = convert();
    assert_eq!(done.code, 0, "{}", done.stderr);
    assert_eq!(hooks.lines("notes"), ["a"]);
}

/// docs/examples: a profile of one's own, and a manifest that says what is different.
#[test]
fn the_example_of_a_profile_is_converted_as_profile_and_overrides_say() {
    let dir = site(&[]);
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/examples");
    for name in ["profile-web.yaml", "profiled.yaml"] {
        fs::copy(examples.join(name), dir.path().join(name)).unwrap();
    }
    let content: Vec<u8> = (0..3u32 << 20).map(|byte| (byte >> 9) as u8).collect();
    fs::write(dir.path().join("web-data.img"), &content).unwrap();
    let done = at(&dir, &["validate", "profile-web.yaml", "profiled.yaml"]);
    assert_eq!(done.code, 0, "{}", done.stdout);
    let done = at(&dir, &["convert", "profiled.yaml", "-o", "out", "--json"]);
    assert_eq!(done.code, 0, "{}", done.stderr);
    let result = dir.path().join("out/data.qcow2");
    use std::os::unix::fs::PermissionsExt as _;
    assert_eq!(fs::metadata(&result).unwrap().permissions().mode() & 0o7777, 0o640, "the profile's mode");
    let info =
        std::process::Command::new("qemu-img").args(["info", "--output=json"]).arg(&result).output().unwrap();
    let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(
        info["format-specific"]["data"]["compression-type"], "zlib",
        "the manifest's override: {info}"
    );
    let raw = dir.path().join("back.raw");
    let back = std::process::Command::new("qemu-img")
        .args(["convert", "-O", "raw"])
        .args([&result, &raw])
        .status()
        .unwrap();
    assert!(back.success() && fs::read(raw).unwrap() == content);
    let stages = &done.json()["pipeline"]["stages"];
    assert!(stages["validate"].is_object() && stages.get("fix").is_none(), "{stages}");
}
