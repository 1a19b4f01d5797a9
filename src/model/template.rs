//! `{{ name }}` in the texts of hooks: a name stands for a value, and for nothing else.
//!
//! There are no filters, no conditions and no escapes: what a name stands for is put in as it is, and is not looked through again. What is not
//! here: which names there are (see [`super::hook`] and the planner).

use std::fmt;

use serde::{Deserialize, Serialize};

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
/// No name of ours is longer, and no path into a manifest.
const LONGEST_NAME: usize = 200;

/// A text in which names may stand for values.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Template(Vec<Part>);

/// A piece of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Name { name: String },
}

impl Template {
    /// Understands a text, or says what is wrong with it.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(OPEN) {
            let (before, opened) = rest.split_at(at);
            let inside = &opened[OPEN.len()..];
            let Some(end) = inside.find(CLOSE) else {
                return Err(format!("`{OPEN}` is not closed by `{CLOSE}`"));
            };
            let name = inside[..end].trim();
            if !is_name(name) {
                return Err(format!("`{}` is not a name", name.chars().take(60).collect::<String>()));
            }
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(Part::Name { name: name.to_owned() });
            rest = &inside[end + CLOSE.len()..];
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Template(parts))
    }

    /// A text that stands for itself, whatever it holds.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Template {
        Template(vec![Part::Text(text.into())])
    }

    /// The names in it.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|part| match part {
            Part::Name { name } => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The same with the values of those names that are known.
    #[must_use]
    pub fn filled(&self, value: &dyn Fn(&str) -> Option<String>) -> Template {
        let fill = |part: &Part| match part {
            Part::Name { name } => value(name).map_or_else(|| part.clone(), Part::Text),
            Part::Text(_) => part.clone(),
        };
        Template(self.0.iter().map(fill).collect())
    }

    /// The text, where every name has a value.
    pub fn text(&self, value: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(piece) => text.push_str(piece),
                Part::Name { name } => text.push_str(&value(name).ok_or_else(|| name.clone())?),
            }
        }
        Ok(text)
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Name { name } => write!(f, "{OPEN} {name} {CLOSE}"),
        })
    }
}

/// Words with dots between them.
fn is_name(text: &str) -> bool {
    let is_word = |word: &str| {
        !word.is_empty() && word.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'))
    };
    text.len() <= LONGEST_NAME && text.split('.').all(is_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(name: &str) -> Option<String> {
        match name {
            "vm_name" => Some("web".to_owned()),
            "nested" => Some("{{ vm_name }}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn names_stand_for_their_values_and_values_are_not_looked_through_again() {
        let template = Template::parse("a {{vm_name}} b {{  nested }}{{ vm_name }}").unwrap();
        assert_eq!(template.text(&known).unwrap(), "a web b {{ vm_name }}web");
        let stored = serde_json::to_string(&template.filled(&known)).unwrap();
        let read: Template = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.text(&known).unwrap(), "a web b {{ vm_name }}web");
    }

    #[test]
    fn what_has_no_value_is_never_left_as_it_is() {
        let template = Template::parse("{{ vm_name }}-{{ disks.0.local_path }}").unwrap();
        assert_eq!(template.names().collect::<Vec<_>>(), ["vm_name", "disks.0.local_path"]);
        assert_eq!(template.text(&known), Err("disks.0.local_path".to_owned()));
        assert_eq!(template.filled(&known).to_string(), "web-{{ disks.0.local_path }}");
    }

    #[test]
    fn what_is_no_template_is_refused() {
        for wrong in ["{{ vm_name", "{{ }}", "{{ a | upper }}", "{{ a..b }}", "{{ $(id) }}"] {
            assert!(Template::parse(wrong).is_err(), "{wrong}");
        }
        assert_eq!(Template::parse("{ } }} plain").unwrap().text(&known).unwrap(), "{ } }} plain");
    }
}
