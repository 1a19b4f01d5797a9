//! Takes secrets out of texts: of values whose key names a secret, of URLs, of authorization headers.
//!
//! [`redact`] works on lines, so that it does the same for YAML, JSON and logs, and for what is none of
//! them. It would rather take out too much. [`without_secrets`] does the same for a manifest, and then
//! reads it again to see that nothing is left.

use super::parse::{Node, Value, parse};

/// What stands in a secret's place.
pub const REDACTED: &str = "[redacted]";

/// A key that holds one of these holds a secret.
const SECRET_KEYS: [&str; 9] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "private_key",
    "authorization",
    "api_key",
    // Slack's and Discord's addresses are all that is needed to write there.
    "webhook_url",
];

/// Keys that name where a secret is, or a policy about secrets, and hold none.
const HARMLESS_ENDS: [&str; 6] = ["_file", "_env", "_credential", "_dir", "_dirs", "allow_inline"];

/// The text without its secrets.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut block_indent = None;
    for line in text.split_inclusive('\n') {
        let indent = line.len() - line.trim_start().len();
        // The lines of a YAML block below a secret's key are the secret.
        if block_indent.is_some_and(|outer| indent > outer || line.trim().is_empty()) {
            continue;
        }
        block_indent = None;
        match secret_value_at(line) {
            Some(at) => {
                if opens_block(&line[at..]) {
                    block_indent = Some(indent);
                }
                let tail = if line[at..].trim_end().ends_with(',') { "," } else { "" };
                out.push_str(&format!("{} \"{REDACTED}\"{tail}\n", line[..at].trim_end()));
            }
            None => out.push_str(&without_logins(line)),
        }
    }
    out
}

/// Whether what stands under this key is a secret.
#[must_use]
pub fn names_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    SECRET_KEYS.iter().any(|secret| key.contains(secret))
        && !HARMLESS_ENDS.iter().any(|harmless| key.ends_with(harmless))
}

/// A manifest without the secrets that it holds; none if it holds none.
///
/// Lines and comments stay where they are if that can be done; else it becomes JSON of the same content.
/// What cannot be parsed is redacted line by line.
#[must_use]
pub fn without_secrets(bytes: &[u8]) -> Option<Vec<u8>> {
    let text = decoded(bytes);
    let redacted = redact(&text);
    let kept = match parse(text.as_bytes(), "manifest") {
        Err(_) => redacted,
        Ok(tree) => {
            let mut secrets = Vec::new();
            collect(&tree.root, &mut secrets);
            let is_clean = |root: &Node| {
                let mut left = Vec::new();
                collect(root, &mut left);
                left.is_empty() && !secrets.iter().any(|secret| redacted.contains(*secret))
            };
            match parse(redacted.as_bytes(), "manifest") {
                Ok(after) if is_clean(&after.root) => redacted,
                Ok(_) | Err(_) => rewritten(&tree.root),
            }
        }
    };
    (kept.trim_end() != text.trim_end()).then(|| kept.into_bytes())
}

/// Whatever the encoding, what a person would see in it.
fn decoded(bytes: &[u8]) -> String {
    let units = |read: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes.chunks_exact(2).skip(1).map(|pair| read([pair[0], pair[1]])).collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, ..] => units(u16::from_le_bytes),
        [0xfe, 0xff, ..] => units(u16::from_be_bytes),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The texts and numbers under keys of secrets.
fn collect<'a>(node: &'a Node, secrets: &mut Vec<&'a str>) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| collect(item, secrets)),
        Value::Map(entries) => {
            for (key, value) in entries {
                if names_secret(&key.name) {
                    texts(value, secrets);
                } else {
                    collect(value, secrets);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

fn texts<'a>(node: &'a Node, found: &mut Vec<&'a str>) {
    match &node.value {
        Value::Text(text) if text != REDACTED && !text.is_empty() => found.push(text),
        Value::List(items) => items.iter().for_each(|item| texts(item, found)),
        Value::Map(entries) => entries.iter().for_each(|(_, value)| texts(value, found)),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) | Value::Text(_) => {}
    }
}

/// The same content as JSON, with every secret replaced.
fn rewritten(root: &Node) -> String {
    let mut root = root.clone();
    replace(&mut root);
    format!("{:#}\n", root.canonical())
}

fn replace(node: &mut Node) {
    match &mut node.value {
        Value::List(items) => items.iter_mut().for_each(replace),
        Value::Map(entries) => {
            for (key, value) in entries {
                if names_secret(&key.name) && value.value != Value::Null {
                    value.value = Value::Text(REDACTED.to_owned());
                } else {
                    replace(value);
                }
            }
        }
        // A script or a note may hold one as well.
        Value::Text(text) => *text = redact(text),
        Value::Null | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {}
    }
}

/// Where the value of a secret's key begins on this line: behind the `:` or `=` after the first such key.
fn secret_value_at(line: &str) -> Option<usize> {
    let lower = line.to_ascii_lowercase();
    let mut from = 0;
    while let Some(found) = SECRET_KEYS.iter().filter_map(|key| lower[from..].find(key)).min() {
        let start = from + found;
        let key_length = lower[start..]
            .find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-')))
            .unwrap_or(lower.len() - start);
        let end = start + key_length;
        let key = &lower[start..end];
        let behind = lower[end..].trim_start_matches(['"', '\'']).trim_start();
        if behind.starts_with([':', '=']) && names_secret(key) {
            return Some(line.len() - behind.len() + 1);
        }
        from = end.max(start + 1);
        if from >= line.len() {
            break;
        }
    }
    None
}

fn opens_block(value: &str) -> bool {
    matches!(value.trim(), "" | "|" | ">" | "|-" | ">-" | "{" | "[")
}

/// `scheme://user:password@host` without the password.
fn without_logins(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out.push_str(before);
        let authority =
            after.find(|c: char| c == '/' || c.is_whitespace() || c == '"').unwrap_or(after.len());
        match after[..authority].rfind('@') {
            Some(login) => {
                out.push_str(REDACTED);
                rest = &after[login..];
            }
            None => rest = after,
        }
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_gone_and_the_rest_stays() {
        for (text, redacted) in [
            ("password: hunter2\nhost: esx\n", "password: \"[redacted]\"\nhost: esx\n"),
            ("  \"password\": \"hunter2\",\n  \"a\": 1\n", "  \"password\": \"[redacted]\",\n  \"a\": 1\n"),
            ("smtp_passwd=hunter2 x\n", "smtp_passwd= \"[redacted]\"\n"),
            ("INFO Authorization: Bearer abc\n", "INFO Authorization: \"[redacted]\"\n"),
            ("get https://u:p@host/x and ftp://h/\n", "get https://[redacted]@host/x and ftp://h/\n"),
            ("password_file: /etc/x\n", "password_file: /etc/x\n"),
            ("the password was refused\n", "the password was refused\n"),
            ("private_key: |\n  line1\n  line2\nnext: 1\n", "private_key: \"[redacted]\"\nnext: 1\n"),
        ] {
            assert_eq!(redact(text), redacted);
        }
    }

    #[test]
    fn a_second_key_on_a_line_is_found_behind_a_harmless_one() {
        assert!(!redact("{password_file: /x, password: hunter2}\n").contains("hunter2"));
    }

    #[test]
    fn any_text_passes_through() {
        for text in ["", "\n", "password", "token:", "ä password: ö\n", "://@", "secret secret=1"] {
            let _ = redact(text);
        }
    }

    fn kept(text: &str) -> Option<String> {
        without_secrets(text.as_bytes()).map(|kept| String::from_utf8(kept).unwrap())
    }

    #[test]
    fn a_manifest_keeps_its_lines_and_loses_its_secrets() {
        let text =
            "# mine\nname: web\nsource:\n  vsphere:\n    host: vc\n    password: hunter2 # old\ndisks: []\n";
        let expected = text.replace("hunter2 # old", "\"[redacted]\"");
        assert_eq!(kept(text).unwrap(), expected);
        assert_eq!(kept(&expected), None, "once is enough");
        assert_eq!(kept("name: web\ncredential: vc\npassword_file: /x"), None);
    }

    #[test]
    fn a_secret_is_found_however_it_is_written() {
        for text in [
            r#"{"name": "web", "pass\u0077ord": "hunter2", "disks": []}"#,
            r#"{"password": "hunter2", "disks": [{"id": "x"}], "name": "web"}"#,
            "{name: web, password:\n\"hunter2\"}\n",
            "name: web\npassword: first\n  hunter2\n",
            "name: web\n? password\n: hunter2\n",
            "name: web\npassword:\n- hunter2\n",
            "name: web\nsecret: {of: {mine: hunter2}}\n",
            "name: web\n# password: hunter2\n",
            "name: web\nuser_data: |\n  users:\n    password: hunter2\n",
            "name: web\nroot_password: hunter2\n",
            "name: [broken\npassword: hunter2\n",
            "\u{feff}password: hunter2\n",
        ] {
            let kept = kept(text).unwrap_or_else(|| panic!("nothing found in {text}"));
            assert!(!kept.contains("hunter2"), "{text}\n{kept}");
            assert_eq!(without_secrets(kept.as_bytes()), None, "not the same a second time: {kept}");
        }
        let wide: Vec<u8> = "\u{feff}password: hunter2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let kept = without_secrets(&wide).unwrap();
        assert!(!String::from_utf8(kept).unwrap().contains("hunter2"));
    }
}
