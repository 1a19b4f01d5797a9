//! A tree into a type, strictly: a serde deserializer whose every complaint says where, what is allowed, and
//! what was probably meant.
//!
//! Types say what they want with serde's derive (`deny_unknown_fields`; no `flatten`, no untagged or
//! internally tagged enums, which lose the place). Types that check their value say why they refuse one
//! with [`refuse`].

use std::fmt;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::super::error::{Error, Kind, Result};
use super::{Key, Node, Tree, Value, closest};

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
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{APART}{}{APART}{}", self.cause, self.advice, self.allowed)
    }
}

impl Tree {
    /// The type that this tree describes, or the first thing in it that the type does not allow.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        let decoder = Decoder { node: &self.root, path: &Path::Root };
        T::deserialize(decoder).map_err(|problem| {
            let problem = problem.at(&self.root, None, &Path::Root);
            let Found { path, place } = *problem.found.unwrap_or_default();
            let mut error = Error::new(Kind::Manifest, problem.cause).allowed(problem.allowed);
            if let Some(advice) = problem.advice {
                error = error.advice(advice);
            }
            self.pointed(error, &path, place)
        })
    }
}

#[derive(Debug, Default)]
struct Found {
    path: String,
    place: (u32, u32, u16),
}

#[derive(Debug)]
struct Problem {
    cause: String,
    advice: Option<String>,
    allowed: Vec<String>,
    /// A key below the place where the problem is found (a missing one).
    key: Option<&'static str>,
    found: Option<Box<Found>>,
}

impl Problem {
    fn new(cause: impl Into<String>) -> Problem {
        Problem { cause: cause.into(), advice: None, allowed: Vec::new(), key: None, found: None }
    }

    fn advice(mut self, advice: impl Into<String>) -> Problem {
        self.advice = Some(advice.into());
        self
    }

    /// Says where, unless something nearer has said so.
    fn at(mut self, node: &Node, key: Option<&Key>, path: &Path<'_>) -> Problem {
        if self.found.is_none() {
            let place = match (&node.value, key) {
                (Value::Map(_) | Value::List(_) | Value::Null, Some(key)) => {
                    (key.line, key.column, node.layer)
                }
                _ => (node.line, node.column, node.layer),
            };
            let path = match self.key {
                Some(key) => Path::Key(path, key).to_string(),
                None => path.to_string(),
            };
            self.found = Some(Box::new(Found { path, place }));
        }
        self
    }

    fn at_key(mut self, key: &Key, layer: u16, path: &Path<'_>) -> Problem {
        if self.found.is_none() {
            let path = Path::Key(path, &key.name).to_string();
            self.found = Some(Box::new(Found { path, place: (key.line, key.column, layer) }));
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
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// Whether what stands here must not be repeated in messages.
    fn is_secret(&self) -> bool {
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

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
}

impl<'a> Decoder<'a> {
    /// "a number is expected here, not the text `x`".
    fn wrong(&self, expected: &str) -> Problem {
        let secret = self.path.is_secret();
        let given = match &self.node.value {
            Value::Bool(value) if !secret => format!("`{value}`"),
            Value::Int(value) if !secret => format!("the number {value}"),
            Value::Float(value) if !secret => format!("the number {value}"),
            Value::Text(text) if !secret => format!("the text `{}`", shortened(text)),
            other => other.what().to_owned(),
        };
        let problem = Problem::new(format!("{expected} is expected here, not {given}"));
        let problem = match (&self.node.value, expected) {
            (Value::Int(_) | Value::Float(_) | Value::Bool(_), "text") => problem.advice("put it in quotes"),
            (Value::Text(_), "true or false") => problem.advice("write true or false, without quotes"),
            (Value::Text(_), "a whole number") => problem.advice("write the number without quotes or unit"),
            (Value::Text(_) | Value::Map(_), "a list") => problem.advice("put `- ` before each item"),
            (Value::Null, _) => problem.advice("give it a value or remove the key"),
            _ => problem,
        };
        problem.at(self.node, None, self.path)
    }

    fn int<T: TryFrom<i64>>(&self, range: &str) -> Result<T, Problem> {
        let Value::Int(number) = self.node.value else { return Err(self.wrong("a whole number")) };
        T::try_from(number).map_err(|_| {
            let mut problem = Problem::new(format!("{number} is out of range"));
            problem.allowed = vec![range.to_owned()];
            problem.at(self.node, None, self.path)
        })
    }
}

fn shortened(text: &str) -> String {
    if text.chars().count() <= 40 {
        return text.replace('\n', " ");
    }
    text.chars().take(37).map(|c| if c == '\n' { ' ' } else { c }).chain("...".chars()).collect()
}

macro_rules! int {
    ($method:ident, $visit:ident, $type:ty, $range:expr) => {
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
            visitor.$visit::<Problem>(self.int::<$type>($range)?)
        }
    };
}

impl<'de> de::Deserializer<'de> for Decoder<'_> {
    type Error = Problem;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => visitor.visit_i64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(List { items, path: self.path, next: 0 }),
            Value::Map(entries) => visitor.visit_map(Map::new(entries, self)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.wrong("true or false")),
        }
    }

    int!(deserialize_i8, visit_i8, i8, "-128 to 127");
    int!(deserialize_i16, visit_i16, i16, "-32768 to 32767");
    int!(deserialize_i32, visit_i32, i32, "-2147483648 to 2147483647");
    int!(deserialize_i64, visit_i64, i64, "whole numbers");
    int!(deserialize_u8, visit_u8, u8, "0 to 255");
    int!(deserialize_u16, visit_u16, u16, "0 to 65535");
    int!(deserialize_u32, visit_u32, u32, "0 to 4294967295");
    int!(deserialize_u64, visit_u64, u64, "0 or more");

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Float(value) => visitor.visit_f64(value),
            Value::Int(value) => visitor.visit_f64(value as f64),
            _ => Err(self.wrong("a number")),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_str(text),
            _ => Err(self.wrong("text")),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Problem> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::List(items) => visitor.visit_seq(List { items, path: self.path, next: 0 }),
            Value::Null => visitor.visit_seq(List { items: &[], path: self.path, next: 0 }),
            _ => Err(self.wrong("a list")),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Map(entries) => visitor.visit_map(Map::new(entries, self)),
            Value::Null => visitor.visit_map(Map::new(&[], self)),
            _ => Err(self.wrong("a map of keys and values")),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Problem> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_enum(text.as_str().into_deserializer()),
            _ => {
                let mut problem = self.wrong("one of a few words");
                problem.allowed = variants.iter().map(|&name| name.to_owned()).collect();
                Err(problem)
            }
        }
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Problem> {
        self.deserialize_str(visitor)
    }

    serde::forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple tuple_struct ignored_any
    }
}

struct List<'a> {
    items: &'a [Node],
    path: &'a Path<'a>,
    next: usize,
}

impl<'de> de::SeqAccess<'de> for List<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let Some(node) = self.items.get(self.next) else { return Ok(None) };
        let path = Path::Index(self.path, self.next);
        self.next += 1;
        seed.deserialize(Decoder { node, path: &path })
            .map(Some)
            .map_err(|problem| problem.at(node, None, &path))
    }
}

struct Map<'a> {
    entries: &'a [(Key, Node)],
    path: &'a Path<'a>,
    layer: u16,
    next: usize,
}

impl<'a> Map<'a> {
    fn new(entries: &'a [(Key, Node)], decoder: Decoder<'a>) -> Map<'a> {
        Map { entries, path: decoder.path, layer: decoder.node.layer, next: 0 }
    }
}

impl<'de> de::MapAccess<'de> for Map<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        let Some((key, _)) = self.entries.get(self.next) else { return Ok(None) };
        let name: de::value::StrDeserializer<'_, Problem> = key.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|problem| problem.at_key(key, self.layer, self.path))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.entries.get(self.next) else {
            return Err(de::Error::custom("a value was asked for without a key"));
        };
        self.next += 1;
        let path = Path::Key(self.path, &key.name);
        seed.deserialize(Decoder { node, path: &path }).map_err(|problem| problem.at(node, Some(key), &path))
    }
}
