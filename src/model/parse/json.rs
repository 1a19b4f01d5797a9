//! JSON into a tree: RFC 8259, with places and limits.
//!
//! Written by hand because no JSON reader among the dependencies tells where a value stood. Strings
//! and numbers are cut out here and given to serde_json to be read.

use std::collections::BTreeSet;

use super::{Budget, Cursor, Error, Key, Kind, MAX_DEPTH, Node, Result, Value};
use super::{forbidden, given_twice, is_forbidden, too_deep};

/// Reads one value and nothing after it.
pub(super) fn read(text: &str) -> Result<Node> {
    let mut reader = Reader { text, at: 0, cursor: Cursor::new(text), budget: Budget::new() };
    let root = reader.value(&mut Vec::new())?;
    reader.skip_space();
    if reader.at < text.len() {
        return Err(reader.malformed("there is more after the end of the JSON value"));
    }
    Ok(root)
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    cursor: Cursor<'a>,
    budget: Budget,
}

enum Segment {
    Key(String),
    Index(usize),
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn value(&mut self, path: &mut Vec<Segment>) -> Result<Node> {
        self.skip_space();
        let (line, column) = self.cursor.at(self.at);
        let spent = self.budget.spend(1, 0);
        spent.map_err(|error| error.at(line, column))?;
        let value = match self.peek() {
            Some(b'{') => self.map(path)?,
            Some(b'[') => self.list(path)?,
            Some(b'"') => Value::Text(self.string(path)?),
            Some(b't') => self.word("true", Value::Bool(true))?,
            Some(b'f') => self.word("false", Value::Bool(false))?,
            Some(b'n') => self.word("null", Value::Null)?,
            Some(b'-' | b'0'..=b'9') => self.number()?,
            Some(_) => return Err(self.malformed("a JSON value is expected here")),
            None => return Err(self.malformed("the JSON ends in the middle")),
        };
        Ok(Node { value, line, column, layer: 0 })
    }

    fn map(&mut self, path: &mut Vec<Segment>) -> Result<Value> {
        self.enter(path)?;
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut seen = BTreeSet::new();
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Map(entries));
        }
        loop {
            self.skip_space();
            match self.peek() {
                Some(b'"') => {}
                None => return Err(self.malformed("the JSON ends in the middle")),
                Some(_) => return Err(self.malformed("a key in double quotes is expected here")),
            }
            let (line, column) = self.cursor.at(self.at);
            let name = self.string(path)?;
            if !seen.insert(name.clone()) {
                let first = entries.iter().find(|(key, _)| key.name == name).map_or(0, |(key, _)| key.line);
                path.push(Segment::Key(name.clone()));
                return Err(given_twice(&name, first).at(line, column).field(shown(path)));
            }
            self.skip_space();
            self.expect(b':', "a `:` is expected after the key")?;
            path.push(Segment::Key(name.clone()));
            let node = self.value(path)?;
            path.pop();
            entries.push((Key { name, line, column }, node));
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => {
                    self.expect(b'}', "a `,` or `}` is expected here")?;
                    return Ok(Value::Map(entries));
                }
            }
        }
    }

    fn list(&mut self, path: &mut Vec<Segment>) -> Result<Value> {
        self.enter(path)?;
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::List(items));
        }
        loop {
            path.push(Segment::Index(items.len()));
            items.push(self.value(path)?);
            path.pop();
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                _ => {
                    self.expect(b']', "a `,` or `]` is expected here")?;
                    return Ok(Value::List(items));
                }
            }
        }
    }

    fn enter(&mut self, path: &[Segment]) -> Result<()> {
        if path.len() >= MAX_DEPTH {
            let (line, column) = self.cursor.at(self.at);
            return Err(too_deep().at(line, column));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self, path: &[Segment]) -> Result<String> {
        let start = self.at;
        let bytes = self.text.as_bytes();
        let mut end = start + 1;
        loop {
            match bytes.get(end) {
                Some(b'"') => break,
                Some(b'\\') => end += 2,
                Some(_) => end += 1,
                None => return Err(self.malformed("this text has no closing quote")),
            }
        }
        let token = &self.text[start..=end];
        let string: String = serde_json::from_str(token).map_err(|_| {
            self.malformed("this text holds a line break or an escape that JSON does not know")
        })?;
        let (line, column) = self.cursor.at(start);
        if let Some(c) = string.chars().find(|c| is_forbidden(*c)) {
            let error = forbidden(c).at(line, column);
            return Err(if path.is_empty() { error } else { error.field(shown(path)) });
        }
        let spent = self.budget.spend(1, string.len());
        spent.map_err(|error| error.at(line, column))?;
        self.at = end + 1;
        Ok(string)
    }

    fn number(&mut self) -> Result<Value> {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-')))
            .unwrap_or(rest.len());
        let token = &rest[..end];
        // serde_json knows the grammar; the digits are read by Rust, which rounds to the nearest.
        let read = serde_json::from_str::<serde_json::Number>(token).ok().and_then(|_| {
            token.parse().map(Value::Int).ok().or_else(|| token.parse().map(Value::Float).ok())
        });
        let number = read.ok_or_else(|| self.malformed("this is not a JSON number"))?;
        self.at += end;
        Ok(number)
    }

    fn word(&mut self, word: &str, value: Value) -> Result<Value> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.malformed("a JSON value is expected here"))
    }

    fn expect(&mut self, byte: u8, complaint: &str) -> Result<()> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(if self.peek().is_none() {
            self.malformed("the JSON ends in the middle")
        } else {
            self.malformed(complaint)
        })
    }

    fn malformed(&mut self, cause: &str) -> Error {
        let (line, column) = self.cursor.at(self.at.min(self.text.len()));
        Error::new(Kind::Manifest, format!("this is not well-formed JSON: {cause}"))
            .at(line, column)
            .advice("check quotes, commas and brackets here and in the line before")
    }
}

fn shown(path: &[Segment]) -> String {
    let mut text = String::new();
    for segment in path {
        match segment {
            Segment::Index(index) => text.push_str(&format!("[{index}]")),
            Segment::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                text.push_str(key);
            }
        }
    }
    text
}
