//! What is wrong with a value, where, and what is allowed there: the error that serde carries out of a decode.
//!
//! Types that check their value say with [`refuse`] why they refuse one. Not here: how a tree is walked
//! (that is [`decode`](super::decode)'s work).

use std::fmt;

use serde::de;

use super::{Key, Node, Value, closest};
use crate::model::error::{Error, Kind};

/// Why a value is refused by the type that should hold it.
///
/// Serde lets a type complain only with a text, so the parts travel in one, kept apart by a character
/// that no manifest may contain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    cause: String,
    advice: String,
    allowed: String,
}

const APART: char = '\u{1f}';

/// Why a value is refused, and what to do about it.
#[must_use]
pub fn refuse(cause: impl Into<String>, advice: impl Into<String>) -> Refusal {
    Refusal { cause: cause.into(), advice: advice.into(), allowed: String::new() }
}

impl Refusal {
    /// What is allowed there.
    #[must_use]
    pub fn allowed(mut self, allowed: impl Into<String>) -> Refusal {
        self.allowed = allowed.into();
        self
    }

    /// As a failure, of a value that stands in no file: an argument of a command.
    #[must_use]
    pub fn into_error(self) -> Error {
        let error = Error::new(Kind::Manifest, self.cause).advice(self.advice);
        if self.allowed.is_empty() { error } else { error.allowed([self.allowed]) }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{APART}{}{APART}{}", self.cause, self.advice, self.allowed)
    }
}

/// Where a problem lies.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) path: String,
    pub(super) place: (u32, u32, u16),
    /// What has to be passed over to find the next; only ever compared.
    pub(super) node: *const Node,
}

impl Found {
    pub(super) fn at(node: &Node, path: String) -> Found {
        Found { path, place: (node.line, node.column, node.layer), node }
    }
}

/// What the decoder ends with.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) cause: String,
    pub(super) advice: Option<String>,
    pub(super) allowed: Vec<String>,
    /// A key below the place where the problem is found (a missing one).
    pub(super) key: Option<&'static str>,
    pub(super) found: Option<Box<Found>>,
}

impl Problem {
    pub(super) fn new(cause: impl Into<String>) -> Problem {
        Problem { cause: cause.into(), advice: None, allowed: Vec::new(), key: None, found: None }
    }

    pub(super) fn advice(mut self, advice: impl Into<String>) -> Problem {
        self.advice = Some(advice.into());
        self
    }

    /// Says where, unless something nearer has said so.
    pub(super) fn at(mut self, node: &Node, key: Option<&Key>, path: &Path<'_>) -> Problem {
        if self.found.is_none() {
            let path = match self.key {
                Some(key) => Path::Key(path, key).to_string(),
                None => path.to_string(),
            };
            let mut found = Found::at(node, path);
            if let (Value::Map(_) | Value::List(_) | Value::Null, Some(key)) = (&node.value, key) {
                found.place = (key.line, key.column, node.layer);
            }
            self.found = Some(Box::new(found));
        }
        self
    }

    pub(super) fn at_key(mut self, (key, node): &(Key, Node), layer: u16, path: &Path<'_>) -> Problem {
        if self.found.is_none() {
            let path = Path::Key(path, &key.name).to_string();
            self.found = Some(Box::new(Found { path, place: (key.line, key.column, layer), node }));
        }
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause)
    }
}

impl std::error::Error for Problem {}

impl de::Error for Problem {
    fn custom<T: fmt::Display>(message: T) -> Problem {
        let message = message.to_string();
        let mut parts = message.split(APART);
        let mut problem = Problem::new(parts.next().unwrap_or_default());
        problem.advice = parts.next().filter(|advice| !advice.is_empty()).map(str::to_owned);
        problem.allowed =
            parts.next().filter(|part| !part.is_empty()).map(str::to_owned).into_iter().collect();
        problem
    }

    fn invalid_type(given: de::Unexpected<'_>, expected: &dyn de::Expected) -> Problem {
        // What was given is named by its sort alone: it may be a secret.
        let given = match given {
            de::Unexpected::Bool(_) => "true/false",
            de::Unexpected::Unsigned(_) | de::Unexpected::Signed(_) | de::Unexpected::Float(_) => "a number",
            de::Unexpected::Str(_) => "text",
            de::Unexpected::Seq => "a list",
            de::Unexpected::Map => "a map",
            _ => "nothing",
        };
        Problem::new(format!("{expected} is expected here, not {given}"))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Problem {
        let mut problem = Problem::new(format!("unknown key `{field}`"));
        problem.advice = Some(match closest(field, expected.iter().copied()) {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "remove it".to_owned(),
        });
        problem.allowed = expected.iter().map(|&name| name.to_owned()).collect();
        problem
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Problem {
        let mut problem = Problem::new(format!("`{variant}` is not allowed here"));
        problem.advice =
            closest(variant, expected.iter().copied()).map(|meant| format!("did you mean `{meant}`?"));
        problem.allowed = expected.iter().map(|&name| name.to_owned()).collect();
        problem
    }

    fn missing_field(field: &'static str) -> Problem {
        let mut problem = Problem::new(format!("`{field}` is required")).advice("add it");
        problem.key = Some(field);
        problem
    }
}

/// Where the decoder is; on the stack, because it is rarely asked for.
pub(super) enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// Whether what stands here must not be repeated in messages.
    pub(super) fn is_secret(&self) -> bool {
        match self {
            Path::Root => false,
            Path::Index(up, _) => up.is_secret(),
            Path::Key(up, name) => {
                ["password", "passphrase", "secret", "token"].iter().any(|word| name.contains(word))
                    || up.is_secret()
            }
        }
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Key(Path::Root, key) => f.write_str(key),
            Path::Key(up, key) => write!(f, "{up}.{key}"),
            Path::Index(up, index) => write!(f, "{up}[{index}]"),
        }
    }
}
