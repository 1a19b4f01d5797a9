//! The text of a VMX: VMware's dictionaries, a `key = "value"` a line.
//!
//! Keys are the same in capitals and small letters. In a value `|` and two hex digits stand for a byte, so that a quotation mark can be in it.
//! Which letters the bytes are, the line `.encoding` says. What is not here: what a key means.

use std::collections::BTreeMap;

use crate::model::error::{Error, Kind, Result};

/// VMware's own have some KiB; notes and settings of guests can make them longer.
pub(crate) const MOST_BYTES: u64 = 4 << 20;
const MOST_LINES: usize = 20_000;

/// Letters of Windows-1252 from 0x80 to 0x9f; all others are those of Unicode.
const WINDOWS_1252: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž', '\u{fffd}',
    '\u{fffd}', '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}', 'ž', 'Ÿ',
];

/// What a VMX says: by key in small letters, its value.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Dictionary {
    values: BTreeMap<String, String>,
    /// Why letters in it may be lost.
    pub(super) warning: Option<String>,
}

impl Dictionary {
    pub(super) fn parse(bytes: &[u8]) -> Result<Dictionary> {
        if bytes.len() as u64 > MOST_BYTES {
            return Err(bad(&format!("it has more than {} MiB", MOST_BYTES >> 20)));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.contains(&0) {
            return Err(bad("it is no text"));
        }
        let mut said: BTreeMap<String, Vec<u8>> = BTreeMap::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            let number = index + 1;
            if number > MOST_LINES {
                return Err(bad(&format!("it has more than {MOST_LINES} lines")));
            }
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            // What stands there is not told: the file may be another than a VMX, and not for everybody's eyes.
            let (key, value) =
                pair(line).ok_or_else(|| bad(&format!("line {number} is no `key = \"value\"`")))?;
            if said.get(&key).is_some_and(|other| *other != value) {
                return Err(bad(&format!("line {number} says something else of its key than a line before")));
            }
            said.insert(key, value);
        }
        Ok(Dictionary::decoded(said))
    }

    fn decoded(said: BTreeMap<String, Vec<u8>>) -> Dictionary {
        let encoding = said.get(".encoding").map(|name| String::from_utf8_lossy(name).trim().to_lowercase());
        let encoding = encoding.unwrap_or_else(|| "utf-8".to_owned());
        let mut warning = None;
        let mut decode = |value: &[u8]| match encoding.as_str() {
            "windows-1252" | "cp1252" | "iso-8859-1" | "latin1" => {
                value.iter().map(|byte| windows_1252(*byte)).collect()
            }
            "utf-8" | "utf8" | "us-ascii" | "ascii" => {
                String::from_utf8(value.to_vec()).unwrap_or_else(|_| {
                    warning = Some(
                        "the VMX is not UTF-8 and does not say what it is: some of its letters are lost"
                            .to_owned(),
                    );
                    String::from_utf8_lossy(value).into_owned()
                })
            }
            // As bytes of one letter each, so that at least what is ASCII stays.
            other => value
                .iter()
                .map(|byte| {
                    if !byte.is_ascii() {
                        let name = shown(other.as_bytes());
                        warning = Some(format!(
                            "the VMX is written in `{name}`, which is not known: some of its letters are lost"
                        ));
                    }
                    if byte.is_ascii() { char::from(*byte) } else { char::REPLACEMENT_CHARACTER }
                })
                .collect(),
        };
        let values = said.into_iter().map(|(key, value)| (key, decode(&value))).collect();
        Dictionary { values, warning }
    }

    /// A value that is not empty; the key in small letters.
    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.values.get(key).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// `TRUE` or `FALSE`, where one of them is said.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)?.to_ascii_lowercase().as_str() {
            "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
            "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
            _ => None,
        }
    }

    pub(super) fn is_true(&self, key: &str) -> bool {
        self.flag(key) == Some(true)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }
}

/// `key = "value" # for people` → the key in small letters, the bytes of the value.
fn pair(line: &[u8]) -> Option<(String, Vec<u8>)> {
    let equals = line.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (line[..equals].trim_ascii(), line[equals + 1..].trim_ascii());
    if key.is_empty() {
        return None;
    }
    let value = match value.strip_prefix(b"\"") {
        Some(quoted) => {
            let end = quoted.iter().position(|byte| *byte == b'"')?;
            let behind = quoted[end + 1..].trim_ascii();
            if !behind.is_empty() && !behind.starts_with(b"#") {
                return None;
            }
            &quoted[..end]
        }
        None => value,
    };
    Some((String::from_utf8_lossy(key).to_ascii_lowercase(), unescaped(value)))
}

/// `|22` → a quotation mark. A `|` without two hex digits stands for itself.
fn unescaped(value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, behind)) = rest.split_first() {
        let escaped = (*first == b'|').then(|| behind.get(..2).and_then(hex)).flatten();
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &behind[2..] } else { behind };
    }
    bytes
}

/// The byte that two hex digits are.
fn hex(digits: &[u8]) -> Option<u8> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16);
    let [high, low] = digits else { return None };
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

fn windows_1252(byte: u8) -> char {
    match byte {
        0x80..=0x9f => WINDOWS_1252[usize::from(byte - 0x80)],
        _ => char::from(byte),
    }
}

pub(super) fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(80).collect::<String>().escape_debug().to_string()
}

pub(super) fn bad(why: &str) -> Error {
    Error::new(Kind::Source, format!("the VMX is refused: {why}"))
        .advice("copy the machine's directory again, or give its disks one by one in a manifest")
        .permanent()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Dictionary {
        Dictionary::parse(text.as_bytes()).unwrap()
    }

    fn refused(bytes: &[u8]) -> String {
        let error = Dictionary::parse(bytes).unwrap_err();
        assert_eq!(error.kind(), Kind::Source);
        error.to_string()
    }

    #[test]
    fn lines_are_read_as_every_product_of_vmware_writes_them() {
        let text = "#!/usr/bin/vmware\r\n.encoding = \"UTF-8\"\r\n\r\n  displayName = \"web |22one|22 #1 = |7C\" # a note\r\n\
                    NumVCPUs=4\nempty = \"\"\nodd = \"100%| |zz\"\nscsi0.Present = \"TRUE\"\nsame = \"1\"\nsame = \"1\"\n";
        let found = parsed(text);
        assert_eq!(found.get("displayname"), Some("web \"one\" #1 = |"));
        assert_eq!((found.get("numvcpus"), found.get("empty")), (Some("4"), None));
        assert_eq!(found.get("odd"), Some("100%| |zz"));
        assert_eq!(
            (found.flag("scsi0.present"), found.flag("numvcpus"), found.flag("none")),
            (Some(true), None, None)
        );
        assert_eq!(found.warning, None);
        assert_eq!(parsed(&format!("\u{feff}{text}")), found);
    }

    #[test]
    fn letters_are_what_the_encoding_says() {
        let named = |encoding: &str, name: &[u8]| {
            let head = format!(".encoding = \"{encoding}\"\nname = \"");
            let found = Dictionary::parse(&[head.as_bytes(), name, b"\"\n"].concat()).unwrap();
            (found.get("name").unwrap().to_owned(), found.warning.is_some())
        };
        assert_eq!(named("UTF-8", "café".as_bytes()), ("café".to_owned(), false));
        assert_eq!(named("UTF-8", b"caf|C3|A9"), ("café".to_owned(), false));
        assert_eq!(named("windows-1252", b"caf\xe9 \x80"), ("café €".to_owned(), false));
        assert_eq!(named("UTF-8", b"caf\xe9"), ("caf\u{fffd}".to_owned(), true));
        assert_eq!(named("GBK", b"web"), ("web".to_owned(), false));
        assert_eq!(named("GBK", b"web \xce\xd2"), ("web \u{fffd}\u{fffd}".to_owned(), true));
    }

    #[test]
    fn what_is_no_dictionary_is_refused() {
        assert!(refused(b"a = \"1\"\nnonsense\n").contains("line 2"));
        assert!(refused(b"a = \"1\n").contains("line 1"));
        assert!(refused(b"a = \"1\" b = \"2\"\n").contains("line 1"));
        assert!(refused(b"= \"1\"").contains("line 1"));
        assert!(refused(b"a = \"1\"\nA = \"2\"\n").contains("line 2 says something else"));
        assert!(refused(b"KDMV\0\0").contains("no text"));
        assert!(refused(&vec![b' '; MOST_BYTES as usize + 1]).contains("MiB"));
        assert!(refused(&vec![b'\n'; MOST_LINES + 1]).contains("lines"));
        assert!(!refused(b"root:hunter2:0:0\n").contains("hunter2"), "it may be anybody's file");
    }
}
