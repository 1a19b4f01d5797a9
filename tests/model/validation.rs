//! The rules of the pre-flight: what the document says of them, and by which names the code raises them.

use std::path::Path;

use hyper2kvm::model::validation::{RULES, Rule};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_document_lists_every_rule_as_it_is() {
    let text = std::fs::read_to_string(repository().join("docs/validation.md")).unwrap();
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter(|line| Rule::named(line.split('`').next().unwrap_or_default()).is_some())
        .map(|line| line.trim_end_matches(" |").split(" | ").map(str::trim).collect())
        .collect();
    let expected: Vec<[String; 4]> = RULES
        .iter()
        .map(|rule| {
            let guarded = if rule.guarded { "no" } else { "yes" };
            [format!("{}`", rule.name), rule.severity.to_string(), guarded.to_owned(), rule.what.to_owned()]
        })
        .collect();
    for (row, expected) in rows.iter().zip(&expected) {
        assert_eq!(row, expected);
    }
    assert_eq!(rows.len(), expected.len(), "rules are missing in docs/validation.md, or told twice");
}

/// The texts behind a marker in all sources.
fn named(directory: &Path, marker: &str, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            named(&path, marker, found);
        } else if path.extension().is_some_and(|suffix| suffix == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            for (at, _) in text.match_indices(marker) {
                let name = text[at + marker.len()..].split('"').next().unwrap_or_default();
                found.push((path.display().to_string(), name.to_owned()));
            }
        }
    }
}

#[test]
fn every_rule_that_an_error_names_is_one() {
    let mut found = Vec::new();
    named(&repository().join("src"), ".rule(\"", &mut found);
    assert!(found.len() > 30, "{found:?}");
    for (path, name) in found {
        assert!(Rule::named(&name).is_some(), "{path} names `{name}`");
    }
}
