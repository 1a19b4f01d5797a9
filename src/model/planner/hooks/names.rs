//! What names in hooks stand for: variables, and paths into the effective manifest.

use std::path::{Path, PathBuf};

use super::Known;
use crate::model::hook::{PLAN_NAMES, RUN_NAMES};
use crate::model::manifest::HookStage;
use crate::model::parse::{Node, Tree, Value, closest};
use crate::model::redaction::names_secret;

/// Whether a name is a variable, and not a path.
pub(super) fn is_variable(name: &str) -> bool {
    PLAN_NAMES.contains(&name) || RUN_NAMES.contains(&name)
}

/// What a name comes to, if that is known by now.
pub(super) fn value(tree: &Tree, stage: HookStage, name: &str, known: &Known) -> Option<String> {
    match name {
        "stage" => Some(stage.name().to_owned()),
        name if PLAN_NAMES.contains(&name) => known.get(name).cloned(),
        name if RUN_NAMES.contains(&name) => None,
        name => at(tree, name).ok(),
    }
}

/// The value at a dotted path of the manifest.
pub(super) fn at(tree: &Tree, name: &str) -> Result<String, Unknown> {
    let mut node = &tree.root;
    for (walked, step) in name.split('.').enumerate() {
        let next = match &node.value {
            Value::List(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => node.get(step).filter(|node| node.value != Value::Null),
        };
        let Some(next) = next else { return Err(unknown(name, walked, node)) };
        if names_secret(step) {
            let cause = format!("`{name}` is a secret");
            return Err(Unknown { cause, allowed: Vec::new(), meant: None });
        }
        node = next;
    }
    match &node.value {
        Value::Text(text) => Ok(text.clone()),
        Value::Null => Ok(String::new()),
        Value::Bool(_) | Value::Int(_) | Value::Float(_) => Ok(node.canonical().to_string()),
        what @ (Value::List(_) | Value::Map(_)) => {
            let allowed = names_in(node).map(|key| format!("{name}.{key}")).collect();
            let cause = format!("`{name}` is {} in this manifest", what.what());
            Err(Unknown { cause, allowed, meant: None })
        }
    }
}

/// Why a name has no value.
pub(super) struct Unknown {
    pub(super) cause: String,
    pub(super) allowed: Vec<String>,
    /// What was most likely meant.
    pub(super) meant: Option<String>,
}

/// Where a path ends before its end: what could have been meant there.
fn unknown(name: &str, walked: usize, node: &Node) -> Unknown {
    let steps: Vec<&str> = name.split('.').collect();
    let (before, after) = (&steps[..walked], &steps[walked + 1..]);
    let here: Vec<String> = names_in(node).collect();
    let whole = |step: &str| {
        let all: Vec<&str> = before.iter().copied().chain([step]).chain(after.iter().copied()).collect();
        all.join(".")
    };
    let variables = PLAN_NAMES.iter().chain(&RUN_NAMES).copied();
    let mut allowed: Vec<String> = Vec::new();
    let cause = match walked {
        0 => {
            allowed.extend(variables.clone().map(str::to_owned));
            format!("there is no variable `{name}`, and nothing of this name in the manifest")
        }
        _ => {
            allowed.extend(here.iter().map(|key| format!("{}.{key}", before.join("."))));
            format!("the manifest says nothing at `{name}`")
        }
    };
    let variable = closest(name, variables.filter(|_| walked == 0)).map(str::to_owned);
    let key = || closest(steps[walked], here.iter().map(String::as_str)).map(whole);
    Unknown { cause, allowed, meant: variable.or_else(key) }
}

fn names_in(node: &Node) -> impl Iterator<Item = String> + '_ {
    let keys = node.entries().iter().filter(|(_, value)| value.value != Value::Null);
    let keys = keys.map(|(key, _)| key.name.clone()).filter(|name| !names_secret(name));
    keys.chain((0..node.items().len()).map(|index| index.to_string()))
}

/// A name as programming languages know it.
pub(super) fn is_word(text: &str) -> bool {
    let mut characters = text.chars();
    characters.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_')
        && characters.all(|c| c.is_ascii_alphanumeric() || c == '_')
}

/// The file of a module: `validators` is `validators.py`.
pub(super) fn file_of(module: &str) -> PathBuf {
    let path = Path::new(module);
    if path.extension().is_some_and(|extension| extension == "py") {
        return path.to_owned();
    }
    PathBuf::from(format!("{module}.py"))
}
