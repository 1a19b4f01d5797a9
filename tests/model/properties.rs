//! What holds for any input.

use std::path::Path;

use hyper2kvm::model::config::{Fragment, Overrides, Settings, resolve};
use hyper2kvm::model::parse::{Node, Value, parse};
use hyper2kvm::model::planner::{Nowhere, Submission, complaints};
use proptest::prelude::*;

fn read(bytes: &[u8], filename: &str) -> Result<Submission, hyper2kvm::model::error::Error> {
    let settings = Settings::defaults(Path::new("/state"), 2);
    Submission::read(bytes, filename, Path::new("/drops"), &settings)
}

/// Text that often is nearly YAML or JSON.
fn nearly() -> impl Strategy<Value = String> {
    let token = prop_oneof![
        Just("manifest_version: \"1.0\"\n".to_owned()),
        Just("disks:\n".to_owned()),
        Just("  - id: boot\n".to_owned()),
        Just("    source_format: vmdk\n".to_owned()),
        Just("    local_path: /d/a.vmdk\n".to_owned()),
        Just("{".to_owned()),
        Just("}".to_owned()),
        Just("[".to_owned()),
        Just("]".to_owned()),
        Just("\"a\": 1,".to_owned()),
        Just("&a ".to_owned()),
        Just("*a ".to_owned()),
        Just("---\n".to_owned()),
        Just("? ".to_owned()),
        Just("| \n ".to_owned()),
        Just("\t".to_owned()),
        Just("\n".to_owned()),
        Just("\u{feff}".to_owned()),
        "[ -~]{0,8}",
        "\\PC{0,4}",
    ];
    prop::collection::vec(token, 0..24).prop_map(|tokens| tokens.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        let _ = read(&bytes, "x.yaml");
        let fragment = Fragment { path: "/etc/x.yaml".into(), bytes };
        let _ = resolve(&[fragment], &Overrides::default(), 2);
    }

    #[test]
    fn nothing_that_looks_like_a_manifest_makes_the_reader_panic(text in nearly()) {
        let settings = Settings::defaults(Path::new("/state"), 2);
        let all = complaints(text.as_bytes(), "x.yaml", Path::new("/drops"), &settings, &mut Nowhere);
        let refused = read(text.as_bytes(), "x.yaml");
        prop_assert_eq!(refused.is_err(), !all.is_empty());
        if let Err(error) = refused {
            prop_assert!(all.contains(&error), "{} is not in {:?}", error, all);
            let place = &error.details().place;
            let lines = u32::try_from(text.lines().count()).unwrap() + 1;
            prop_assert!(place.line.is_none_or(|line| (1..=lines).contains(&line)), "{error}");
            prop_assert!(!error.to_string().contains('\n'));
        }
    }

    #[test]
    fn json_means_the_same_to_this_reader_as_to_serde_json(value in json()) {
        let root = Value::Map(vec![]);
        let object = serde_json::json!({ "value": value });
        for text in [object.to_string(), serde_json::to_string_pretty(&object).unwrap()] {
            let tree = parse(text.as_bytes(), "x.json").unwrap();
            prop_assert_ne!(&tree.root.value, &root);
            prop_assert_eq!(tree.root.canonical(), Node::from_json(&object).canonical());
        }
    }

    #[test]
    fn planning_is_the_same_every_time_whatever_the_order_of_keys(seed in any::<u64>(), name in "[a-z]{1,8}") {
        let lines = [
            "manifest_version: \"1.0\"\n".to_owned(),
            "priority: 7\n".to_owned(),
            "vm: {cpu: 2, mem_gb: 4}\n".to_owned(),
            "output:\n  format: raw\n  preallocation: falloc\n".to_owned(),
            "disks:\n  - id: boot\n    local_path: a.vmdk\n    source_format: vmdk\n".to_owned(),
            "notes: [one, two]\n".to_owned(),
        ];
        let text: String = lines.concat();
        let mut shuffled = lines.to_vec();
        let mut random = seed;
        for i in (1..shuffled.len()).rev() {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            shuffled.swap(i, usize::try_from(random >> 33).unwrap() % (i + 1));
        }
        let one = read(text.as_bytes(), "web.yaml").unwrap();
        let other = read(shuffled.concat().as_bytes(), &format!("{name}.yaml")).unwrap();
        prop_assert_eq!(&one.content_sha256, &other.content_sha256);
        prop_assert_eq!(&one.vms[0].content_sha256, &other.vms[0].content_sha256);
        let settings = Settings::defaults(Path::new("/state"), 2);
        let plans = |submission: &Submission| {
            serde_json::to_string(&submission.plans("b", "", &settings).unwrap()).unwrap()
        };
        prop_assert_eq!(plans(&one), plans(&read(text.as_bytes(), "web.yaml").unwrap()));
        prop_assert_eq!(one, read(text.as_bytes(), "web.yaml").unwrap());
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<bool>().prop_map(Into::into),
        any::<i64>().prop_map(Into::into),
        (-1.0e9..1.0e9).prop_map(|number: f64| number.into()),
        "\\PC{0,12}".prop_map(Into::into),
        "[a-z\"\\\\/\n\t]{0,6}".prop_map(Into::into),
    ];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
            prop::collection::btree_map("\\PC{0,6}", inner, 0..6)
                .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
        ]
    })
}
