//! The control API's document against its router, and what the API answers.

use std::collections::BTreeSet;
use std::fs;

use hyper2kvm::service::control::{Access, route_names};
use serde_json::Value;

use crate::fake::Fake;

fn document() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/api/openapi.yaml");
    serde_yaml::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn every_route_is_in_the_document_and_nothing_else_is() {
    let document = document();
    let mut documented = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            documented.insert(format!("{} {path}", method.to_uppercase()));
        }
    }
    let routes: BTreeSet<String> =
        route_names().iter().map(|route| format!("{} {}", route.method, route.path)).collect();
    assert_eq!(documented, routes);
}

#[test]
fn the_document_says_of_every_route_who_may_use_it() {
    let document = document();
    for route in route_names() {
        let operation = &document["paths"][route.path][route.method.as_str().to_lowercase()];
        let expected = match route.access {
            Access::Read => "read",
            Access::Act => "act",
        };
        assert_eq!(operation["x-access"], expected, "{route:?}");
        assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{route:?}");
        assert!(operation["responses"]["default"]["$ref"].is_string(), "{route:?} has no refusal");
    }
}

#[test]
fn every_reference_in_the_document_leads_somewhere() {
    let document = document();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 20);
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            if let Some(Value::String(reference)) = map.get("$ref") {
                references.push(reference.clone());
            }
            map.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn answers_have_the_keys_that_the_document_promises() {
    let fake = Fake::start();
    let document = document();
    for (words, schema) in [
        (vec!["status", "--json"], "Status"),
        (vec!["list", "--json"], "JobList"),
        (vec!["show", "1", "--json"], "JobDetails"),
        (vec!["prune", "--dry-run", "--json"], "Pruned"),
        (vec!["pause", "1", "--json"], "Acted"),
        (vec!["rollback", "1", "--dry-run", "--json"], "RolledBack"),
    ] {
        let answer = crate::run::run_at(fake.state(), &words).json();
        let keys: BTreeSet<&String> = answer.as_object().unwrap().keys().collect();
        let promised: BTreeSet<&String> =
            document["components"]["schemas"][schema]["properties"].as_object().unwrap().keys().collect();
        assert_eq!(keys, promised, "{schema}");
    }
}
