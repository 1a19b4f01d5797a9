//! A tree into a type, strictly: a serde deserializer whose every complaint says where, what is allowed, and
//! what was probably meant.
//!
//! Types say what they want with serde's derive (`deny_unknown_fields`; no `flatten`, no untagged or
//! internally tagged enums, which lose the place). What is said is in [`problem`](super::problem).

use std::collections::BTreeSet;

use serde::de::{self, DeserializeOwned, DeserializeSeed, IntoDeserializer, Visitor};

use super::super::error::{Error, Kind, Result};
use super::problem::{Found, Path, Problem};
use super::{Key, Node, Tree, Value};

/// More complaints than these about one file help nobody; one more is looked for, so that it is known whether
/// there are.
pub const MAX_COMPLAINTS: usize = 50;

/// Nodes that were complained about and are passed over from then on, by where they lie in memory.
type Passed = BTreeSet<*const Node>;

fn is_passed(passed: &Passed, node: &Node) -> bool {
    !passed.is_empty() && passed.contains(&std::ptr::from_ref(node))
}

impl Tree {
    /// The type that this tree describes, or the first thing in it that the type does not allow.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        self.walk(&Passed::new()).map_err(|problem| self.told(problem).0)
    }

    /// All that the type does not allow, each once, at most one more than [`MAX_COMPLAINTS`].
    ///
    /// Serde ends at the first error. So what was complained about is passed over and the rest walked through
    /// again, until nothing is left to complain about. Of several keys that one map lacks the first is told, once
    /// those that it has are right.
    #[must_use]
    pub fn complaints<T: DeserializeOwned>(&self) -> Vec<Error> {
        let mut passed = Passed::new();
        let mut errors = Vec::new();
        // What follows from a complaint costs a walk and tells nothing.
        for _ in 0..4 * MAX_COMPLAINTS {
            let Err(problem) = self.walk::<T>(&passed) else { break };
            let lacks_key = problem.key.is_some();
            let (error, found) = self.told(problem);
            // A key that seems to be missing because its value was passed over.
            let follows = lacks_key && self.node(&found.path).is_some();
            if !follows {
                errors.push(error);
            }
            let is_all = std::ptr::eq(found.node, &self.root);
            if errors.len() > MAX_COMPLAINTS || is_all || !passed.insert(found.node) {
                break;
            }
        }
        errors
    }

    fn walk<T: DeserializeOwned>(&self, passed: &Passed) -> Result<T, Problem> {
        let decoder = Decoder { node: &self.root, path: &Path::Root, passed };
        T::deserialize(decoder).map_err(|problem| problem.at(&self.root, None, &Path::Root))
    }

    fn told(&self, problem: Problem) -> (Error, Found) {
        let found = problem.found.map_or_else(|| Found::at(&self.root, String::new()), |found| *found);
        let mut error = Error::new(Kind::Manifest, problem.cause).allowed(problem.allowed);
        if let Some(advice) = problem.advice {
            error = error.advice(advice);
        }
        (self.pointed(error, &found.path, found.place), found)
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    path: &'a Path<'a>,
    passed: &'a Passed,
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
            Value::List(items) => visitor.visit_seq(List::new(items, self)),
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
            Value::List(items) => visitor.visit_seq(List::new(items, self)),
            Value::Null => visitor.visit_seq(List::new(&[], self)),
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
    passed: &'a Passed,
    next: usize,
}

impl<'a> List<'a> {
    fn new(items: &'a [Node], decoder: Decoder<'a>) -> List<'a> {
        List { items, path: decoder.path, passed: decoder.passed, next: 0 }
    }
}

impl<'de> de::SeqAccess<'de> for List<'_> {
    type Error = Problem;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Problem> {
        let mut left = self.items.iter().enumerate().skip(self.next);
        let Some((index, node)) = left.find(|(_, node)| !is_passed(self.passed, node)) else {
            return Ok(None);
        };
        let path = Path::Index(self.path, index);
        self.next = index + 1;
        seed.deserialize(Decoder { node, path: &path, passed: self.passed })
            .map(Some)
            .map_err(|problem| problem.at(node, None, &path))
    }
}

struct Map<'a> {
    entries: &'a [(Key, Node)],
    path: &'a Path<'a>,
    passed: &'a Passed,
    layer: u16,
    next: usize,
}

impl<'a> Map<'a> {
    fn new(entries: &'a [(Key, Node)], decoder: Decoder<'a>) -> Map<'a> {
        Map { entries, path: decoder.path, passed: decoder.passed, layer: decoder.node.layer, next: 0 }
    }
}

impl<'de> de::MapAccess<'de> for Map<'_> {
    type Error = Problem;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Problem> {
        while self.entries.get(self.next).is_some_and(|(_, node)| is_passed(self.passed, node)) {
            self.next += 1;
        }
        let Some(entry) = self.entries.get(self.next) else { return Ok(None) };
        let name: de::value::StrDeserializer<'_, Problem> = entry.0.name.as_str().into_deserializer();
        seed.deserialize(name).map(Some).map_err(|problem| problem.at_key(entry, self.layer, self.path))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Problem> {
        let Some((key, node)) = self.entries.get(self.next) else {
            return Err(de::Error::custom("a value was asked for without a key"));
        };
        self.next += 1;
        let path = Path::Key(self.path, &key.name);
        seed.deserialize(Decoder { node, path: &path, passed: self.passed })
            .map_err(|problem| problem.at(node, Some(key), &path))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::model::parse::parse;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoded")]
    struct Rack {
        name: String,
        height: u8,
        hosts: Vec<Host>,
        labels: Option<BTreeMap<String, String>>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only decoded")]
    struct Host {
        id: String,
        cores: Option<u8>,
    }

    fn fields(text: &str) -> Vec<String> {
        let complaints = parse(text.as_bytes(), "rack.yaml").unwrap().complaints::<Rack>();
        complaints.iter().map(|error| error.details().place.field.clone().unwrap_or_default()).collect()
    }

    #[test]
    fn what_is_right_is_not_complained_about() {
        assert_eq!(fields("name: a\nheight: 42\nhosts: [{id: x}, {id: y, cores: 4}]\n"), [""; 0]);
    }

    #[test]
    fn each_mistake_is_told_once_and_at_its_own_place() {
        let text = "name: a\nhosts:\n  - {id: a, cores: 400}\n  - {cores: x, colour: red}\n  - {id: c}\n  - {id: [], size: 1}\n\
                    labels: {a: 1, b: two, c: 3}\nheigth: 2\n";
        let expected = [
            "hosts[0].cores",
            "hosts[1].cores",
            "hosts[1].colour",
            "hosts[1].id",
            "hosts[3].id",
            "hosts[3].size",
            "labels.a",
            "labels.c",
            "heigth",
            "height",
        ];
        assert_eq!(fields(text), expected);
    }

    #[test]
    fn what_only_follows_from_a_complaint_is_not_one() {
        assert_eq!(fields("name: 5\nheight: 1\nhosts: all\n"), ["name", "hosts"]);
    }

    #[test]
    fn of_a_file_full_of_mistakes_one_more_than_the_most_is_looked_for() {
        let text: String = (0..500).map(|number| format!("key{number}: 1\n")).collect();
        assert_eq!(fields(&text).len(), MAX_COMPLAINTS + 1);
    }
}
