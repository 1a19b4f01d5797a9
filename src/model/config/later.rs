//! Keys of the format whose feature this version lacks: refused by name, so that nobody believes them in force.

use crate::model::error::{Error, Kind};
use crate::model::parse::{Tree, Value};

/// A key (or all keys below it) and what it belongs to.
const LATER: [(&str, &str); 1] = [("guest", "guest repair")];

/// Keys of the Python program, and what they are called here.
const RENAMED: [(&str, &str); 10] = [
    ("watch_dir", "it is called `intake.dir` here"),
    ("workdir", "it is called `work_dir` here"),
    ("log_file", "it is called `log.file` here"),
    ("json_logs", "write `log: {format: json}`"),
    ("retry_policy", "it is called `retry` here"),
    ("file_stable_timeout", "it is called `intake.settle_s` here"),
    ("enable_deduplication", "remove it: the same work is never done twice"),
    ("archive_processed", "remove it: drops are always moved to processed/ or failed/"),
    ("cmd", "remove it: the command line says what is done"),
    ("daemon", "remove it: the command line says what is done"),
];

/// Takes out what belongs to features that this version lacks, and tells why it is refused.
pub(super) fn take_out(tree: &mut Tree) -> Vec<Error> {
    let mut refused = Vec::new();
    for (field, feature) in LATER {
        let Some(node) = tree.node(field) else { continue };
        if node.says_something() {
            refused.push(refusal(tree, field, feature));
        }
        match field.rsplit_once('.') {
            Some((parent, key)) => {
                if let Some(parent) =
                    parent.split('.').try_fold(&mut tree.root, |node, key| node.get_mut(key))
                {
                    parent.take(key);
                }
            }
            None => {
                tree.root.take(field);
            }
        }
    }
    if tree.node("enable_recovery").is_some_and(|node| node.value == Value::Bool(false)) {
        refused.push(
            tree.error(
                Kind::Unsupported,
                "enable_recovery",
                "finished disks are always gone on from".to_owned(),
            )
            .advice("remove it; `hyper2kvm retry --from load` begins a job from the beginning"),
        );
    }
    for (key, advice) in RENAMED {
        if tree.root.get(key).is_some() {
            refused.push(tree.error(Kind::Manifest, key, format!("unknown key `{key}`")).advice(advice));
            tree.root.take(key);
        }
    }
    refused
}

/// Whether a file says something that only a configuration could, by its names alone.
#[must_use]
pub fn is_named_in(tree: &Tree) -> bool {
    let names = LATER.iter().map(|(field, _)| *field);
    names.chain(RENAMED.iter().map(|(key, _)| *key)).any(|field| tree.node(field).is_some())
}

fn refusal(tree: &Tree, field: &str, feature: &str) -> Error {
    // The first key inside is what a person wrote and looks for.
    let inner =
        tree.node(field).and_then(|node| node.entries().iter().find(|(_, value)| value.says_something()));
    let field = inner.map_or_else(|| field.to_owned(), |(key, _)| format!("{field}.{}", key.name));
    tree.error(Kind::Unsupported, &field, format!("this version of hyper2kvm has no {feature}"))
        .advice("remove it")
}
