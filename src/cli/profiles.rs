//! `profiles`: which there are, and what one comes to. The answer for one is itself a profile: without the comments nothing of it is lost.

use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value as Json;

use super::table::{Paint, Table, cell, printable};
use super::{Exit, Failure, StateArgs, Ui};
use crate::model::api::ErrorView;
use crate::model::error::{Error, Result};
use crate::model::parse::{Node, Tree, Value};
use crate::model::planner::{OriginOf, ProfileLevel, ResolvedProfile, origin_words};
use crate::source::profiles::{self, ListedProfile};

/// Comments stand behind the values, in one column if the values are not longer than this.
const VALUE_WIDTH: usize = 44;

/// Arguments of `profiles`.
#[derive(Debug, clap::Args)]
pub(super) struct ProfilesArgs {
    /// Print what this profile comes to, and where each value comes from
    #[arg(value_name = "NAME")]
    name: Option<String>,
    #[command(flatten)]
    state: StateArgs,
}

/// `--json` without a name
#[derive(Serialize)]
struct ListDocument {
    profiles: Vec<ListEntry>,
}

#[derive(Serialize)]
struct ListEntry {
    name: String,
    description: Option<String>,
    file: Option<PathBuf>,
    extends: Option<String>,
    shadows_builtin: bool,
    error: Option<ErrorView>,
}

/// `--json` with one
#[derive(Serialize)]
struct ProfileDocument<'p> {
    name: &'p str,
    description: Option<&'p str>,
    chain: &'p [ProfileLevel],
    values: Vec<OriginOf>,
}

/// Prints them, or it.
pub(super) fn run(args: &ProfilesArgs, ui: &Ui) -> Result<Exit, Failure> {
    let directory = args.state.settings_or_defaults()?.profiles_dir;
    let Some(name) = &args.name else {
        let listed = profiles::list(&directory)?;
        match ui.json {
            true => ui.print_json(&ListDocument { profiles: listed.into_iter().map(entry).collect() })?,
            false => ui.print(&table(&listed, ui.color))?,
        }
        return Ok(Exit::Done);
    };
    let profile = profiles::kept(name, &directory)?;
    if ui.json {
        ui.print_json(&ProfileDocument {
            name: &profile.name,
            description: profile.description.as_deref(),
            chain: &profile.chain,
            values: profile.values(),
        })?;
    } else {
        ui.print(&describe(&profile)?)?;
    }
    Ok(Exit::Done)
}

fn entry(listed: ListedProfile) -> ListEntry {
    let (profile, error) = match &listed.profile {
        Ok(profile) => (Some(profile), None),
        Err(error) => (None, Some(ErrorView::from(error))),
    };
    ListEntry {
        description: profile.and_then(|profile| profile.description.clone()),
        extends: profile.and_then(|profile| profile.chain.get(1)).map(|level| level.name.clone()),
        error,
        name: listed.name,
        file: listed.file,
        shadows_builtin: listed.shadows,
    }
}

fn table(listed: &[ListedProfile], color: bool) -> String {
    let mut table = Table::new(&["NAME", "FROM", "WHAT IT IS"]);
    for ListedProfile { name, file, shadows, profile } in listed {
        let from = match (file, shadows) {
            (None, _) => "built in".to_owned(),
            (Some(file), false) => file.display().to_string(),
            (Some(file), true) => format!("{}, in place of the built-in one", file.display()),
        };
        let what = match profile {
            Ok(profile) => cell(profile.description.as_deref().unwrap_or("-")),
            Err(error) => cell(error.to_string()).paint(Paint::Bad),
        };
        table.row([cell(name), cell(from), what]);
    }
    table.render(color)
}

/// The profile as YAML, with where its values come from behind them.
fn describe(profile: &ResolvedProfile) -> Result<String> {
    let tree = profile.tree();
    let chain: Vec<String> = profile
        .chain
        .iter()
        .map(|level| match &level.file {
            Some(file) => format!("{} ({})", level.name, file.display()),
            None => format!("{} (built in)", level.name),
        })
        .collect();
    let mut lines = vec![Line { text: format!("# {}", chain.join(" -> ")), origin: None }];
    if let Some(description) = &profile.description {
        lines.push(Line {
            text: format!("description: {}", scalar(&description.as_str().into())?),
            origin: None,
        });
    }
    for (key, node) in tree.root.entries() {
        write(&tree, &key.name, node, 0, &mut lines)?;
    }
    let commented = lines.iter().filter(|line| line.origin.is_some());
    let width = commented.map(|line| line.text.chars().count()).max().unwrap_or(0).min(VALUE_WIDTH);
    let shown = |line: &Line| {
        let text = match &line.origin {
            Some(origin) => format!("{:<width$}  # {origin}", line.text),
            None => line.text.clone(),
        };
        format!("{}\n", printable(&text))
    };
    Ok(lines.iter().map(shown).collect())
}

/// A line of YAML.
struct Line {
    text: String,
    origin: Option<String>,
}

fn write(tree: &Tree, key: &str, node: &Node, depth: usize, lines: &mut Vec<Line>) -> Result<()> {
    let indent = "  ".repeat(depth);
    let key = scalar(&key.into())?;
    let origin = || Some(origin_words(tree, node.layer, node.line));
    match &node.value {
        Value::Null => {}
        Value::Map(entries) if !entries.is_empty() => {
            lines.push(Line { text: format!("{indent}{key}:"), origin: None });
            for (key, node) in entries {
                write(tree, &key.name, node, depth + 1, lines)?;
            }
        }
        Value::List(items) if !items.is_empty() => {
            lines.push(Line { text: format!("{indent}{key}:"), origin: origin() });
            let text = yaml(&node.canonical())?;
            lines.extend(text.lines().map(|line| Line { text: format!("{indent}  {line}"), origin: None }));
        }
        _ => lines
            .push(Line { text: format!("{indent}{key}: {}", scalar(&node.canonical())?), origin: origin() }),
    }
    Ok(())
}

/// A value on one line.
fn scalar(value: &Json) -> Result<String> {
    let text = yaml(value)?;
    let text = text.trim_end();
    // What YAML would write in several lines, JSON writes in one, and both mean the same.
    Ok(if text.contains('\n') { value.to_string() } else { text.to_owned() })
}

fn yaml(value: &Json) -> Result<String> {
    serde_yaml::to_string(value)
        .map_err(|error| Error::internal(format!("a profile cannot be written as YAML: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::planner::{ProfileFile, ProfileFiles, resolve_profile};

    struct One(&'static str);

    impl ProfileFiles for One {
        fn file(&mut self, name: &str) -> Result<Option<ProfileFile>> {
            let file = ProfileFile { path: "/profiles/web.yaml".into(), bytes: self.0.as_bytes().to_vec() };
            Ok((name == "web").then_some(file))
        }

        fn names(&mut self) -> Vec<String> {
            vec!["web".to_owned()]
        }
    }

    #[test]
    fn what_is_printed_is_a_profile_that_comes_to_the_same() {
        let text = "description: \"yes: #1\"\nextends: archive\noutput: {preallocation: \"off\", mode: \"0640\", compress: zlib}\n\
                    configuration:\n  hostname: {hosts: {192.0.2.5: \"db\", \"on\": \"a b\"}}\n  firstboot:\n    scripts:\n      \
                    - {name: a, content: \"x\\ny: [\\n\"}\nhooks: {}\n";
        let profile = resolve_profile("web", &mut One(text)).unwrap();
        let printed: &'static str = describe(&profile).unwrap().leak();
        let again =
            resolve_profile("web", &mut One(printed)).unwrap_or_else(|error| panic!("{error}\n{printed}"));
        assert_eq!(again.tree().root.canonical(), profile.tree().root.canonical(), "{printed}");
        assert_eq!(again.description, profile.description);
        assert!(printed.contains("# profile web (/profiles/web.yaml), line 3\n"), "{printed}");
        assert!(printed.contains("# profile archive\n"), "{printed}");
    }
}
